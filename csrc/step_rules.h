// SPDX-License-Identifier: Apache-2.0
// One step of SGD, Adam or AdamW on a number or a vector of replicas, as torch.optim has them;
// shared by the sweeps, by CPU lanes and CUDA threads.
#pragma once

#include <cstdint>

#include "arithmetic.h"
#include "elementary.h"
#include "power.h"

namespace symfast {

enum class Optimizer : std::int64_t { sgd = 0, adam = 1, adamw = 2 };

// Powers start afresh when this divides the number of steps.
constexpr std::int64_t kPowerEvery = 64;

// The rates of one step, for a number or a vector of replicas.
template <typename V>
struct StepRates {
  V lr, decay, momentum, beta2, epsilon;
  V amount;   // of the constraint: lr strength
  V rate;     // adam: lr over the bias correction of the first moment
  V rescale;  // adam: 1 over the root of the bias correction of the second moment
  V shrink;   // adamw: 1 - lr decay
};

template <bool kMomentum, typename V>
SYMFAST_SWEEP_INLINE void step_sgd(const StepRates<V>& r, V g, V& theta, V& velocity) {
  using Math = Arithmetic<V>;
  const V push = Math::multiply_add(r.decay, theta, g);
  velocity = kMomentum ? Math::multiply_add(r.momentum, velocity, push) : push;
  theta = Math::multiply_add(-r.lr, velocity, theta);
}

template <bool kDecoupled, typename V>
SYMFAST_SWEEP_INLINE void step_adam(const StepRates<V>& r, V g, V& theta, V& first, V& second) {
  using Math = Arithmetic<V>;
  using A = typename Lanes<V>::Number;
  if constexpr (kDecoupled) {
    theta = r.shrink * theta;
  } else {
    g = Math::multiply_add(r.decay, theta, g);
  }
  const V one = fill<V>(A(1));
  first = Math::multiply_add(one - r.momentum, g - first, first);
  const V power = (one - r.beta2) * g;
  second = Math::multiply_add(r.beta2, second, power * g);
  const V scale = Math::multiply_add(Lanes<V>::root(second), r.rescale, r.epsilon);
  theta = Math::multiply_add(-r.rate, first / scale, theta);
}

// Power of a rate after `steps` steps: by squaring up to a multiple of kPowerEvery, one
// multiplication a step from there on. So pieces of a training equal the whole, and a late start
// costs nothing.
SYMFAST_SWEEP_INLINE double power_after(double rate, std::int64_t steps) {
  const std::int64_t rest = steps % kPowerEvery;
  double power = whole_power(rate, static_cast<std::uint32_t>(steps - rest));
  for (std::int64_t step = 0; step < rest; ++step) power *= rate;
  return power;
}
// The next power, from the one after `steps` steps.
SYMFAST_SWEEP_INLINE double next_power(double power, double rate, std::int64_t steps) {
  return steps % kPowerEvery == 0 ? power_after(rate, steps) * rate : power * rate;
}

// Rates of one step; the powers run on from step to step.
template <typename T>
SYMFAST_SWEEP_INLINE void set_rates(StepRates<T>& r, T lr, Optimizer rule, std::int64_t taken,
                                    double& power1, double& power2) {
  r.lr = lr;
  if (rule == Optimizer::sgd) return;
  r.shrink = Arithmetic<T>::multiply_add(-lr, r.decay, T(1));
  power1 = next_power(power1, static_cast<double>(r.momentum), taken);
  power2 = next_power(power2, static_cast<double>(r.beta2), taken);
  r.rate = static_cast<T>(static_cast<double>(lr) / (1 - power1));
  r.rescale = static_cast<T>(1 / Lanes<double>::root(1 - power2));
}

}  // namespace symfast
