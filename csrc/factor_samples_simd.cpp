// SPDX-License-Identifier: Apache-2.0
// Hot loop of the product-factor sweep with minibatches or noise; compiled once per instruction
// set. All gradients of a step come first, then the factors.
#include "factor_group_simd.h"

namespace symfast {

namespace SYMFAST_ISA {
namespace {

template <int D, typename T>
void step_each(const FactorBlock<T>& b, std::int64_t lane, const Rates<T>& rates) {
  for (std::int64_t i = 0; i < b.d; ++i) {
    const Vec<T> g = lanes(b.gradient + i * kSweepLanes<T> + lane);
    if (b.factored[i])
      update<D, false>(b, i, lane, g, Vec<T>{}, rates, rates.decay);
    else
      update<1, false>(b, i, lane, g, Vec<T>{}, rates, Vec<T>{});
  }
}

template <typename T>
void advance(const FactorBlock<T>& block, std::int64_t steps) {
  each_group(block, [&]<int D, bool kGated>(Group<T>& group) {
    group.advance(steps, [](const FactorBlock<T>& b, std::int64_t lane, std::int64_t index) {
      const Rates<T> rates = rates_of(b, lane, index);
      if constexpr (kGated)
        step_groups<D>(b, lane, rates);
      else
        step_each<D>(b, lane, rates);
    });
  });
}

}  // namespace

// `steps` steps of every lane; an odd number leaves the weights in `b.next`.
void advance_samples_f64(const FactorBlock<double>& b, std::int64_t steps) { advance(b, steps); }
void advance_samples_f32(const FactorBlock<float>& b, std::int64_t steps) { advance(b, steps); }

}  // namespace SYMFAST_ISA
}  // namespace symfast
