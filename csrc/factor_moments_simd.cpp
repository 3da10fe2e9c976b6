// SPDX-License-Identifier: Apache-2.0
// Hot loop of the product-factor sweep by Adam or AdamW; compiled once per instruction set. All
// gradients of a step come first, whatever they come from, then the factors.
#include "elementary_simd.h"
#include "factor_group_simd.h"

namespace symfast {

namespace SYMFAST_ISA {
namespace {

// Rates of the factored coordinates in a step; the powers run on from step to step.
template <typename T>
StepRates<Vec<T>> moment_rates(const FactorBlock<T>& b, std::int64_t lane, std::int64_t index) {
  constexpr int V = kLanes<T>, W = kLanes<double>;
  const MomentBlock<T>& m = b.moments;
  const std::int64_t taken = b.samples.step + index;
  StepRates<Vec<T>> r{};
  r.lr = lanes(b.lr + lane) * b.lr_schedule[index];
  r.momentum = lanes(b.momentum + lane);
  r.decay = lanes(b.decay + lane) * b.schedule[index];
  r.beta2 = lanes(m.beta2 + lane);
  r.epsilon = lanes(m.epsilon + lane);
  r.shrink = Arithmetic<Vec<T>>::multiply_add(-r.lr, r.decay, fill<Vec<T>>(T(1)));
  if (taken % kPowerEvery == 0) {
    for (std::int64_t l = lane; l < lane + V; ++l) {
      m.power1[l] = power_after(m.rate1[l], taken);
      m.power2[l] = power_after(m.rate2[l], taken);
    }
  }
  const Vec<double> one = fill<Vec<double>>(1.0);
  for (int part = 0; part < V; part += W) {
    Vec<double> lr;
    for (int l = 0; l < W; ++l) lr[l] = static_cast<double>(r.lr[part + l]);
    Vec<double>& power1 = lanes(m.power1 + lane + part);
    Vec<double>& power2 = lanes(m.power2 + lane + part);
    power1 = power1 * lanes(m.rate1 + lane + part);
    power2 = power2 * lanes(m.rate2 + lane + part);
    const Vec<double> rate = lr / (one - power1), rescale = one / root(one - power2);
    for (int l = 0; l < W; ++l) {
      r.rate[part + l] = static_cast<T>(rate[l]);
      r.rescale[part + l] = static_cast<T>(rescale[l]);
    }
  }
  return r;
}

// Steps the factors of coordinate i of a vector of lanes, and stores the new weight.
template <int D, bool kGated, bool kDecoupled, typename T>
SYMFAST_SWEEP_INLINE void update(const FactorBlock<T>& b, std::int64_t i, std::int64_t lane,
                                 Vec<T> sum, const StepRates<Vec<T>>& rates) {
  constexpr std::int64_t L = kSweepLanes<T>;
  const std::int64_t start = i * b.depth * L + lane;
  Vec<T> f[D], first[D], second[D], gradient[D];
  SYMFAST_FACTOR_UNROLL
  for (int j = 0; j < D; ++j) {
    f[j] = lanes(b.factor + start + j * L);
    first[j] = lanes(b.velocity + start + j * L);
    second[j] = lanes(b.moments.second + start + j * L);
  }
  factor_gradients<D, kGated>(f, lanes(b.gradient + i * L + lane), sum, gradient);
  lanes(b.next + i * L + lane) = step_moments<D, kDecoupled>(f, first, second, D, gradient, rates);
  SYMFAST_FACTOR_UNROLL
  for (int j = 0; j < D; ++j) {
    lanes(b.factor + start + j * L) = f[j];
    lanes(b.velocity + start + j * L) = first[j];
    lanes(b.moments.second + start + j * L) = second[j];
  }
}

// All coordinates of one vector of lanes; without gates every coordinate is a group of its own.
template <int D, bool kGated, bool kDecoupled, typename T>
void step_all(const FactorBlock<T>& b, std::int64_t lane, std::int64_t index) {
  const StepRates<Vec<T>> rates = moment_rates(b, lane, index);
  StepRates<Vec<T>> plain = rates;
  plain.decay = Vec<T>{};
  plain.shrink = fill<Vec<T>>(T(1));
  for (std::int64_t first = 0, last; first < b.d; first = last) {
    last = first + 1;
    Vec<T> sum{};
    if constexpr (kGated) sum = sum_of_group(b, lane, first, last);
    for (std::int64_t i = first; i < last; ++i) {
      if (b.factored[i])
        update<D, kGated, kDecoupled>(b, i, lane, sum, rates);
      else
        update<1, false, kDecoupled>(b, i, lane, sum, plain);
    }
  }
}

template <typename T>
void advance(const FactorBlock<T>& block, std::int64_t steps) {
  each_group(block, [&]<int D, bool kGated>(Group<T>& group) {
    if (block.moments.rule == Optimizer::adam)
      group.advance(steps, step_all<D, kGated, false, T>);
    else
      group.advance(steps, step_all<D, kGated, true, T>);
  });
}

}  // namespace

// `steps` steps of every lane; an odd number leaves the weights in `b.next`.
void advance_moments_f64(const FactorBlock<double>& b, std::int64_t steps) { advance(b, steps); }
void advance_moments_f32(const FactorBlock<float>& b, std::int64_t steps) { advance(b, steps); }

}  // namespace SYMFAST_ISA
}  // namespace symfast
