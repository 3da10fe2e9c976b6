// SPDX-License-Identifier: Apache-2.0
// Product factors, element by element; compiled once per instruction set. A vector that is cut
// short does the same arithmetic as a whole one, so no result depends on where a range begins.
#include "arithmetic_simd.h"
#include "factor_call.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

// The numbers at p as a vector; `count` of them if it is less than a vector's.
template <bool kWhole, typename T>
SF_INLINE Vec<Acc<T>> take(const T* p, int64_t count) {
  if constexpr (kWhole) {
    return load(p);
  } else {
    return load_some(p, count);
  }
}
template <bool kWhole, typename T>
SF_INLINE void give(T* p, Vec<Acc<T>> v, int64_t count) {
  if constexpr (kWhole) {
    store(p, v);
  } else {
    store_some(p, v, count);
  }
}

template <typename A>
SF_INLINE Vec<A> all(double value) {
  Vec<A> v{};
  return v + static_cast<A>(value);
}

// Calls run(first, count) for whole vectors with true, and once with false for what is left.
template <typename A, typename Run>
SF_INLINE void walk(int64_t begin, int64_t end, const Run& run) {
  int64_t i = begin;
  for (; i + kLanes<A> <= end; i += kLanes<A>) run.template at<true>(i, kLanes<A>);
  if (i < end) run.template at<false>(i, end - i);
}

template <typename T, int D>
struct Product {
  const T* factor[D];
  T* out;

  template <bool kWhole>
  SYMFAST_SWEEP_INLINE void at(int64_t i, int64_t count) const {
    Vec<Acc<T>> f[D];
#pragma GCC unroll 6
    for (int j = 0; j < D; ++j) f[j] = take<kWhole>(factor[j] + i, count);
    give<kWhole>(out + i, product<D>(f), count);
  }
};

template <typename T, int D>
struct Gradients {
  const T* factor[D];
  const T* gradient;
  T* out[D];

  template <bool kWhole>
  SYMFAST_SWEEP_INLINE void at(int64_t i, int64_t count) const {
    Vec<Acc<T>> f[D], others[D];
#pragma GCC unroll 6
    for (int j = 0; j < D; ++j) f[j] = take<kWhole>(factor[j] + i, count);
    leave_one_out<D>(f, others);
    const Vec<Acc<T>> g = take<kWhole>(gradient + i, count);
#pragma GCC unroll 6
    for (int j = 0; j < D; ++j) give<kWhole>(out[j] + i, g * others[j], count);
  }
};

template <typename T, int D, bool kMomentum>
struct Step {
  using A = Acc<T>;
  T* weight;
  const T* gradient;
  A* factors;
  A* velocities;
  int64_t size;
  Vec<A> lr, momentum, decay;

  template <bool kWhole>
  SYMFAST_SWEEP_INLINE void at(int64_t i, int64_t count) const {
    Vec<A> f[D], v[D], rates[D];
    const Vec<A> g = take<kWhole>(gradient + i, count);
#pragma GCC unroll 6
    for (int j = 0; j < D; ++j) {
      f[j] = take<kWhole>(factors + j * size + i, count);
      if constexpr (kMomentum) v[j] = take<kWhole>(velocities + j * size + i, count);
      rates[j] = lr;
    }
    step_factors<D, kMomentum>(f, v, g, rates, momentum, decay);
#pragma GCC unroll 6
    for (int j = 0; j < D; ++j) {
      give<kWhole>(factors + j * size + i, f[j], count);
      if constexpr (kMomentum) give<kWhole>(velocities + j * size + i, v[j], count);
    }
    give<kWhole>(weight + i, product<D>(f), count);
  }
};

template <typename T, int D>
void multiply(const FactorCall& call, int64_t begin, int64_t end) {
  Product<T, D> run;
  for (int j = 0; j < D; ++j) run.factor[j] = static_cast<const T*>(call.factors[j]);
  run.out = static_cast<T*>(call.outputs[0]);
  walk<Acc<T>>(begin, end, run);
}

template <typename T, int D>
void differentiate(const FactorCall& call, int64_t begin, int64_t end) {
  Gradients<T, D> run;
  for (int j = 0; j < D; ++j) {
    run.factor[j] = static_cast<const T*>(call.factors[j]);
    run.out[j] = static_cast<T*>(call.outputs[j]);
  }
  run.gradient = static_cast<const T*>(call.gradient);
  walk<Acc<T>>(begin, end, run);
}

template <typename T, int D, bool kMomentum>
void step(const FactorItem& item, const FactorRates& rates, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Step<T, D, kMomentum> run{static_cast<T*>(item.weight),
                                  static_cast<const T*>(item.gradient),
                                  static_cast<A*>(item.factors),
                                  static_cast<A*>(item.velocity),
                                  item.size,
                                  all<A>(rates.lr),
                                  all<A>(rates.momentum),
                                  all<A>(rates.decay)};
  walk<A>(begin, end, run);
}

// One verb at every depth, for the depth of the call.
template <typename T, int D = 2>
void for_depth(const FactorCall& call, int64_t begin, int64_t end) {
  if (call.depth == D) {
    return call.gradient ? differentiate<T, D>(call, begin, end) : multiply<T, D>(call, begin, end);
  }
  if constexpr (D < kMaxDepth) for_depth<T, D + 1>(call, begin, end);
}

template <typename T, int D = 2>
void step_depth(const FactorItem& item, const FactorRates& rates, int64_t begin, int64_t end) {
  if (item.depth == D) {
    return item.velocity ? step<T, D, true>(item, rates, begin, end)
                         : step<T, D, false>(item, rates, begin, end);
  }
  if constexpr (D < kMaxDepth) step_depth<T, D + 1>(item, rates, begin, end);
}

}  // namespace

void factor_run(const FactorCall& call, int64_t begin, int64_t end) {
  switch (call.number) {
    case Number::f64:
      return for_depth<double>(call, begin, end);
    case Number::f32:
      return for_depth<float>(call, begin, end);
    case Number::bf16:
      return for_depth<bf16>(call, begin, end);
    case Number::f16:
      return for_depth<f16>(call, begin, end);
  }
}

void factor_advance(Number number, const FactorItem& item, const FactorRates& rates, int64_t begin,
                    int64_t end) {
  switch (number) {
    case Number::f64:
      return step_depth<double>(item, rates, begin, end);
    case Number::f32:
      return step_depth<float>(item, rates, begin, end);
    case Number::bf16:
      return step_depth<bf16>(item, rates, begin, end);
    case Number::f16:
      return step_depth<f16>(item, rates, begin, end);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
