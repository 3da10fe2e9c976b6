// SPDX-License-Identifier: Apache-2.0
// What the sweeps of product factors by SIMD lanes share, without and with random numbers.
#pragma once
#include "arithmetic_simd.h"
#include "factor_sweep.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

// Two vectors share each number that is common to all lanes; four rows share each load of lanes.
constexpr int kGroup = 2;
constexpr int kRows = 4;
template <typename T>
constexpr std::int64_t kWidth = kGroup * kLanes<T>;

// Per-lane constants of one group of vectors, kept in registers over all steps.
template <typename T>
struct Rates {
  Vec<T> lr, momentum, decay;
};

template <typename T>
SYMFAST_SWEEP_INLINE Rates<T> rates_of(const FactorBlock<T>& b, std::int64_t lane,
                                       std::int64_t step) {
  return {lanes(b.lr + lane) * b.lr_schedule[step], lanes(b.momentum + lane),
          lanes(b.decay + lane) * b.schedule[step]};
}

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

// Gradient times own factor over the group that begins at `first`; `last` becomes its end.
template <typename T>
SYMFAST_SWEEP_INLINE Vec<T> sum_of_group(const FactorBlock<T>& b, std::int64_t lane,
                                         std::int64_t first, std::int64_t& last) {
  constexpr std::int64_t L = kSweepLanes<T>;
  Vec<T> sum{};
  for (last = first; last < b.d && b.group[last] == first; ++last)
    sum = gate_gradient(sum, lanes(b.gradient + last * L + lane),
                        lanes(b.factor + last * b.depth * L + lane));
  return sum;
}

// The update of one vector of lanes with gates, group by group.
template <int D, typename T>
void step_groups(const FactorBlock<T>& b, std::int64_t lane, const Rates<T>& rates) {
  constexpr std::int64_t L = kSweepLanes<T>;
  for (std::int64_t first = 0, last; first < b.d; first = last) {
    const Vec<T> sum = sum_of_group(b, lane, first, last);
    for (std::int64_t i = first; i < last; ++i) {
      const Vec<T> gradient = lanes(b.gradient + i * L + lane);
      if (b.factored[i])
        update<D, true>(b, i, lane, gradient, sum, rates, rates.decay);
      else
        update<1, false>(b, i, lane, gradient, sum, rates, Vec<T>{});
    }
  }
}

// A table in memory, in numbers from one entry to the next.
struct Pitch {
  std::int64_t line, entry;
};

// sum[r][k] += sum_j table(r, j) vector(k, j): entries of the table are common to all lanes.
template <int R, typename T>
SYMFAST_SWEEP_INLINE void accumulate(Vec<T> (&sum)[R][kGroup], const T* vector, Pitch vectors,
                                     const T* table, Pitch rows, std::int64_t count) {
  for (std::int64_t j = 0; j < count; ++j) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int k = 0; k < kGroup; ++k)
        sum[r][k] = Arithmetic<Vec<T>>::multiply_add(
            lanes(vector + k * vectors.line + j * vectors.entry),
            table[r * rows.line + j * rows.entry] - Vec<T>{}, sum[r][k]);
  }
}

// Gram w - linear of R coordinates from i on.
template <int R, typename T>
SYMFAST_SWEEP_INLINE void gram_rows(const FactorBlock<T>& b, std::int64_t i, std::int64_t lane,
                                    Vec<T> (&g)[R][kGroup]) {
  constexpr std::int64_t L = kSweepLanes<T>;
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < kGroup; ++k) g[r][k] = Vec<T>{} - b.linear[i + r];
  accumulate<R>(g, b.weight + lane, {kLanes<T>, L}, b.gram + i * b.d, {b.d, 1}, b.d);
}

// Calls body<rows>(first) over `count` rows.
template <typename Body>
SYMFAST_SWEEP_INLINE void each_rows(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + kRows <= count; i += kRows) body.template operator()<kRows>(i);
  if (i + 2 <= count) {
    body.template operator()<2>(i);
    i += 2;
  }
  if (i < count) body.template operator()<1>(i);
}

// Calls body<depth>() for a block's depth.
template <typename Body>
SYMFAST_SWEEP_INLINE void with_depth(std::int64_t depth, const Body& body) {
  switch (depth) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 3:
      return body.template operator()<3>();
    case 4:
      return body.template operator()<4>();
    case 5:
      return body.template operator()<5>();
    default:
      return body.template operator()<6>();
  }
}

}  // namespace
}  // namespace SYMFAST_ISA
}  // namespace symfast
