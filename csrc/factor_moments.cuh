// SPDX-License-Identifier: Apache-2.0
// CUDA sweep of product factors by Adam or AdamW: one block a replica, as sweep_by_samples,
// whatever its gradients come from.
#pragma once
#include "factor_samples.cuh"

namespace symfast {

// One step of coordinate i; returns its new weight.
template <typename T, int D>
SF_DEVICE T step_coordinate_moments(const SweepArguments<T>& a, int64_t b, int64_t i,
                                    StepRates<T> rates, const BlockWeights<T>& w) {
  Coordinate<T, D> c;
  read_coordinate(a, b, i, c);
  if (!load(a.factored + i)) {
    rates.decay = T(0);
    rates.shrink = T(1);
  }
  T second[D];
  const int64_t first = b * a.max_depth * a.d + i;
#pragma unroll
  for (int j = 0; j < D; ++j)
    second[j] = j < c.used ? load(a.moments.second + first + j * a.d) : T(0);
  T gradient[D];
  if (a.group)
    factor_gradients<D, true>(c.factor, w.gradient[i], group_sum(a, i, w), gradient);
  else
    factor_gradients<D, false>(c.factor, w.gradient[i], T(0), gradient);
  const T weight =
      a.moments.rule == Optimizer::adam
          ? step_moments<D, false>(c.factor, c.velocity, second, c.used, gradient, rates)
          : step_moments<D, true>(c.factor, c.velocity, second, c.used, gradient, rates);
  write_factors(a, b, i, c);
#pragma unroll
  for (int j = 0; j < D; ++j)
    if (j < c.used) store(a.moments.second + first + j * a.d, second[j]);
  return weight;
}

template <typename T, int D>
SF_KERNEL(kSampleBlock, 1)
sweep_by_moments(SF_ARGUMENT SweepArguments<T> a) {
  SF_DYNAMIC_SHARED(memory);
  const int64_t b = blockIdx.x;
  BlockWeights<T> weights(reinterpret_cast<T*>(memory), a.d);
  const RandomReplica<T> replica(a, b, weights.gradient + a.d);
  const T lr = load_table(a.lr + b);
  const T decay = T(2) * load_table(a.lam + b) / static_cast<T>(depth_of(a, b));
  StepRates<T> rates{};
  rates.momentum = load_table(a.momentum + b);
  rates.beta2 = load_table(a.moments.beta2 + b);
  rates.epsilon = load_table(a.moments.epsilon + b);
  double power1 = power_after(static_cast<double>(rates.momentum), a.samples.first_step);
  double power2 = power_after(static_cast<double>(rates.beta2), a.samples.first_step);
  sweep_replica<T, D>(a, b, weights, [&](BlockWeights<T>& w, int64_t index) {
    const int64_t taken = a.samples.first_step + index;
    const StepFactors<T> factors = factors_of(a, b, index);
    rates.decay = decay * factors.penalty;
    set_rates(rates, lr * factors.lr, a.moments.rule, taken, power1, power2);
    replica.form_gradients(w.weight, w.gradient, taken);
    keep_own(a, b, w);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x)
      w.next[i] = step_coordinate_moments<T, D>(a, b, i, rates, w);
  });
}

}  // namespace symfast
