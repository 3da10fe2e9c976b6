// SPDX-License-Identifier: Apache-2.0
// Adam and AdamW in the product-factor sweep, shared by the CPU lanes and the CUDA threads.
//
// Every factor takes the step of torch.optim for the gradient g prod_{e != j} f_e, of decay
// c = 2 lam / D: coupled, through the moments, or decoupled, f_j <- (1 - lr c) f_j. The coupled one
// ends where the penalised loss is least, as SGD does; the decoupled one is no penalty of w.
#pragma once

#include <cstdint>

#include "factor.h"
#include "step_rules.h"

namespace symfast {

// What Adam needs beside velocity, which is its first moment, and momentum.
template <typename T>
struct MomentArguments {
  Optimizer rule;
  T* second;         // (B, D, d), read and overwritten; like the others not looked at by sgd
  const T* beta2;    // (B)
  const T* epsilon;  // (B)
};

// The same of a CPU block.
template <typename T>
struct MomentBlock {
  Optimizer rule;
  T* second;            // (d, depth, lanes)
  const T* epsilon;     // (lanes)
  const T* beta2;       // (lanes)
  const double* rate1;  // (lanes), the rates of the moments, widened
  const double* rate2;  // (lanes)
  double* power1;       // (lanes), their powers after the steps taken
  double* power2;       // (lanes)
};

// Gradients with respect to the factors of a coordinate; of gates for `sum`, gradient times f_0
// over the group.
template <int D, bool kGated, typename V>
SYMFAST_SWEEP_INLINE void factor_gradients(const V (&factor)[D], V gradient, V sum, V (&found)[D]) {
  if constexpr (D == 1) {
    found[0] = gradient;
  } else {
    V shared[D], others[D];
    SYMFAST_FACTOR_UNROLL
    for (int j = 0; j < D; ++j) shared[j] = kGated && j == 0 ? sum : factor[j];
    leave_one_out<D>(shared, others);
    SYMFAST_FACTOR_UNROLL
    for (int j = 0; j < D; ++j) found[j] = kGated && j > 0 ? others[j] : gradient * others[j];
  }
}

// One step of the first `used` factors of a coordinate; returns the new weight.
template <int D, bool kDecoupled, typename V>
SYMFAST_SWEEP_INLINE V step_moments(V (&factor)[D], V (&first)[D], V (&second)[D], int used,
                                    const V (&gradient)[D], const StepRates<V>& rates) {
  SYMFAST_FACTOR_UNROLL
  for (int j = 0; j < D; ++j)
    if (j < used) step_adam<kDecoupled>(rates, gradient[j], factor[j], first[j], second[j]);
  return product<D>(factor);
}

}  // namespace symfast
