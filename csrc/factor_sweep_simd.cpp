// SPDX-License-Identifier: Apache-2.0
// Hot loop of the product-factor sweep; compiled once per instruction set.
#include "factor_sweep_simd.h"

namespace symfast {

namespace SYMFAST_ISA {
namespace {

// Gradient of R coordinates from row i on, in registers, and their update straight after it; with
// gates the gradients are kept for `step_groups`.
template <int D, int R, bool kGated, typename T>
SYMFAST_SWEEP_INLINE void step_rows(const FactorBlock<T>& b, std::int64_t i, std::int64_t lane,
                                    const Rates<T> (&rates)[kGroup]) {
  constexpr std::int64_t L = kSweepLanes<T>;
  constexpr std::int64_t V = kLanes<T>;
  Vec<T> g[R][kGroup];
  gram_rows<R>(b, i, lane, g);
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

template <int D, bool kGated, typename T>
void advance_group(FactorBlock<T> b, std::int64_t lane, std::int64_t steps) {
  constexpr std::int64_t V = kLanes<T>;
  Rates<T> rates[kGroup];
  for (std::int64_t step = 0; step < steps; ++step) {
    for (int k = 0; k < kGroup; ++k) rates[k] = rates_of(b, lane + k * V, step);
    each_rows(b.d, [&]<int R>(std::int64_t i) { step_rows<D, R, kGated>(b, i, lane, rates); });
    if constexpr (kGated)
      for (int k = 0; k < kGroup; ++k) step_groups<D>(b, lane + k * V, rates[k]);
    T* const swapped = b.weight;  // all gradients of a step use the weights before it
    b.weight = b.next;
    b.next = swapped;
  }
}

template <typename T>
void advance(const FactorBlock<T>& b, std::int64_t steps) {
  with_depth(b.depth, [&]<int D>() {
    for (std::int64_t lane = 0; lane < kSweepLanes<T>; lane += kWidth<T>) {
      if (D > 1 && b.group)
        advance_group<D, (D > 1)>(b, lane, steps);
      else
        advance_group<D, false>(b, lane, steps);
    }
  });
}

}  // namespace

// `steps` steps of every lane; an odd number leaves the weights in `b.next`.
void advance_factors_f64(const FactorBlock<double>& b, std::int64_t steps) { advance(b, steps); }
void advance_factors_f32(const FactorBlock<float>& b, std::int64_t steps) { advance(b, steps); }

}  // namespace SYMFAST_ISA
}  // namespace symfast
