// SPDX-License-Identifier: Apache-2.0
// Hot loop of the product-factor sweep; compiled once per instruction set.
#include "factor_sweep.h"

#include "arithmetic_simd.h"

namespace symfast {

namespace SYMFAST_ISA {
namespace {

// Two vectors share each broadcast Gram entry; four rows share each load of the weights.
constexpr int kGroup = 2;
constexpr int kRows = 4;
template <typename T>
constexpr std::int64_t kWidth = kGroup * kLanes<T>;

template <typename T>
SYMFAST_SWEEP_INLINE Vec<T>& lanes(T* p) {
  return *reinterpret_cast<Vec<T>*>(p);
}
template <typename T>
SYMFAST_SWEEP_INLINE const Vec<T>& lanes(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

// Per-lane constants of one group of vectors, kept in registers over all steps.
template <typename T>
struct Rates {
  Vec<T> lr, momentum, decay;
};

// Loads the factors of coordinate i, steps them, stores them and the new weight.
template <int D, bool kGated, typename T>
SYMFAST_SWEEP_INLINE void update(const FactorBlock<T>& b, std::int64_t i, std::int64_t lane,
                                 Vec<T> gradient, Vec<T> sum, const Rates<T>& rates, Vec<T> decay) {
  constexpr std::int64_t L = kSweepLanes<T>;
  T* const factor = b.factor + i * b.depth * L + lane;
  T* const velocity = b.velocity + i * b.depth * L + lane;
  Vec<T> f[D], v[D], lr[D];
#pragma GCC unroll 6
  for (int j = 0; j < D; ++j) {
    f[j] = lanes(factor + j * L);
    v[j] = lanes(velocity + j * L);
    lr[j] = rates.lr;
  }
  Vec<T> w;
  if constexpr (kGated)
    w = step_gated<D>(f, v, gradient, sum, lr, rates.momentum, decay);
  else
    w = step_coordinate<D>(f, v, gradient, lr, rates.momentum, decay);
#pragma GCC unroll 6
  for (int j = 0; j < D; ++j) {
    lanes(factor + j * L) = f[j];
    lanes(velocity + j * L) = v[j];
  }
  lanes(b.next + i * L + lane) = w;
}

// Gradient of R coordinates from row i on, in registers, and their update straight after it; with
// gates the gradients are kept for `step_groups`.
template <int D, int R, bool kGated, typename T>
SYMFAST_SWEEP_INLINE void step_rows(const FactorBlock<T>& b, std::int64_t i, std::int64_t lane,
                                    const Rates<T> (&rates)[kGroup]) {
  constexpr std::int64_t L = kSweepLanes<T>;
  constexpr std::int64_t V = kLanes<T>;
  const T* const row = b.gram + i * b.d;
  Vec<T> g[R][kGroup];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < kGroup; ++k) g[r][k] = Vec<T>{} - b.linear[i + r];
  for (std::int64_t j = 0; j < b.d; ++j) {
    const T* const column = b.weight + j * L + lane;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int k = 0; k < kGroup; ++k)
        g[r][k] = Arithmetic<Vec<T>>::multiply_add(lanes(column + k * V),
                                                   row[r * b.d + j] - Vec<T>{}, g[r][k]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < kGroup; ++k) {
      if (kGated)
        lanes(b.gradient + (i + r) * L + lane + k * V) = g[r][k];
      else if (D == 1 || b.factored[i + r])
        update<D, false>(b, i + r, lane + k * V, g[r][k], Vec<T>{}, rates[k],
                         b.factored[i + r] ? rates[k].decay : Vec<T>{});
      else
        update<1, false>(b, i + r, lane + k * V, g[r][k], Vec<T>{}, rates[k], Vec<T>{});
    }
}

// The update of one vector of lanes with gates, group by group.
template <int D, typename T>
void step_groups(const FactorBlock<T>& b, std::int64_t lane, const Rates<T>& rates) {
  constexpr std::int64_t L = kSweepLanes<T>;
  for (std::int64_t first = 0, last; first < b.d; first = last) {
    Vec<T> sum{};
    for (last = first; last < b.d && b.group[last] == first; ++last)
      sum = gate_gradient(sum, lanes(b.gradient + last * L + lane),
                          lanes(b.factor + last * D * L + lane));
    for (std::int64_t i = first; i < last; ++i) {
      const Vec<T> gradient = lanes(b.gradient + i * L + lane);
      if (b.factored[i])
        update<D, true>(b, i, lane, gradient, sum, rates, rates.decay);
      else
        update<1, false>(b, i, lane, gradient, sum, rates, Vec<T>{});
    }
  }
}

template <int D, bool kGated, typename T>
void advance_group(FactorBlock<T> b, std::int64_t lane, std::int64_t steps) {
  constexpr std::int64_t V = kLanes<T>;
  Rates<T> rates[kGroup];
  for (std::int64_t step = 0; step < steps; ++step) {
    for (int k = 0; k < kGroup; ++k)
      rates[k] = {lanes(b.lr + lane + k * V), lanes(b.momentum + lane + k * V),
                  lanes(b.decay + lane + k * V) * b.schedule[step]};
    std::int64_t i = 0;
    for (; i + kRows <= b.d; i += kRows) step_rows<D, kRows, kGated>(b, i, lane, rates);
    if (i + 2 <= b.d) {
      step_rows<D, 2, kGated>(b, i, lane, rates);
      i += 2;
    }
    if (i < b.d) step_rows<D, 1, kGated>(b, i, lane, rates);
    if constexpr (kGated)
      for (int k = 0; k < kGroup; ++k) step_groups<D>(b, lane + k * V, rates[k]);
    T* const swapped = b.weight;  // all gradients of a step use the weights before it
    b.weight = b.next;
    b.next = swapped;
  }
}

template <int D, typename T>
void advance_block(const FactorBlock<T>& b, std::int64_t steps) {
  for (std::int64_t lane = 0; lane < kSweepLanes<T>; lane += kWidth<T>) {
    if (D > 1 && b.group)
      advance_group<D, (D > 1)>(b, lane, steps);
    else
      advance_group<D, false>(b, lane, steps);
  }
}

template <typename T>
void dispatch_depth(const FactorBlock<T>& b, std::int64_t steps) {
  switch (b.depth) {
    case 1:
      return advance_block<1>(b, steps);
    case 2:
      return advance_block<2>(b, steps);
    case 3:
      return advance_block<3>(b, steps);
    case 4:
      return advance_block<4>(b, steps);
    case 5:
      return advance_block<5>(b, steps);
    default:
      return advance_block<6>(b, steps);
  }
}

}  // namespace

// `steps` steps of every lane; an odd number leaves the weights in `b.next`.
void advance_factors_f64(const FactorBlock<double>& b, std::int64_t steps) {
  dispatch_depth(b, steps);
}
void advance_factors_f32(const FactorBlock<float>& b, std::int64_t steps) {
  dispatch_depth(b, steps);
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
