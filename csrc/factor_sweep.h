// SPDX-License-Identifier: Apache-2.0
// Arithmetic of the product-factor sweep, shared by the CPU lanes and the CUDA threads.
//
// A coordinate of the weight is w = f_0 f_1 ... f_{D-1}. One step of SGD with momentum m and
// coupled decay c on the factors, for a gradient g with respect to w:
//   v_j <- m v_j + g prod_{e != j} f_e + c f_j,    f_j <- f_j - lr v_j.
// With c = 2 lam / D the factors minimise  loss(w) + lam ||w||_{2/D}^{2/D}; lam may follow a
// schedule.
//
// lr may follow a schedule as well. The gradient is Gram w - linear, or that of a minibatch of
// samples, whose targets may be noisy; noise may be added to it: factor_samples.h.
//
// With gates a group of neighbouring coordinates shares f_1 ... f_{D-1}, so that the penalty is
// lam ||w_group||_2^{2/D}. Every coordinate keeps a copy of its gates; all copies take the same
// step, for the sum of their gradients. Adam and AdamW on the factors: factor_moments.h.
#pragma once

#include <cstdint>

#include "factor.h"
#include "factor_moments.h"
#include "factor_samples.h"

namespace symfast {

// Lanes of one CPU block: 128 bytes of replicas, whatever the instruction set.
template <typename T>
constexpr std::int64_t kSweepLanes = 128 / static_cast<std::int64_t>(sizeof(T));

enum class SweepStatus : std::int64_t { finished = 0, converged = 1, diverged = 2, cancelled = 3 };

// A whole sweep as plain pointers. B replicas, d coordinates, D = max_depth factor slots; factors
// and velocity are read and overwritten, the other outputs are only written.
template <typename T>
struct SweepArguments {
  const T* gram;                // (d, d), symmetric
  const T* linear;              // (d)
  const bool* factored;         // (d), false: a plain weight without decay
  const std::int64_t* depth;    // (B), 1..D
  const T* lr;                  // (B)
  const T* momentum;            // (B)
  const T* lam;                 // (B)
  const T* schedule;            // (kinds, steps), factors of lam
  const std::int64_t* kind;     // (B), row of the schedule
  const T* lr_schedule;         // (lr_kinds, steps), factors of lr
  const std::int64_t* lr_kind;  // (B), row of it
  const std::int64_t* group;    // (d), first coordinate of the group; null without gates
  T* weight;                    // (B, d)
  T* factors;                   // (B, D, d)
  T* velocity;                  // (B, D, d)
  std::int64_t* steps_used;     // (B)
  T* residual;                  // (B), max |dw| over the last interval between two checks
  std::int64_t* status;         // (B), SweepStatus
  std::int64_t* progress;       // (2): replica steps done so far; set [1] to cancel
  SampleArguments<T> samples;
  MomentArguments<T> moments;
  std::int64_t kinds, lr_kinds, replicas, d, max_depth, steps, check_every;
  T tol;
};

// One CPU block of replicas of equal depth and schedules, as structure of arrays: lanes are
// contiguous.
template <typename T>
struct FactorBlock {
  const T* gram;
  const T* linear;
  const bool* factored;
  const std::int64_t* group;
  std::int64_t d;
  std::int64_t depth;
  T* weight;             // (d, lanes)
  T* next;               // (d, lanes), takes the weights after the step
  T* gradient;           // (d, lanes), with gates or random numbers only
  T* factor;             // (d, depth, lanes)
  T* velocity;           // (d, depth, lanes)
  const T* lr;           // (lanes)
  const T* momentum;     // (lanes)
  const T* decay;        // (lanes), 2 lam / depth
  const T* schedule;     // factor of decay of the steps to come
  const T* lr_schedule;  // factor of lr of the steps to come
  SampleBlock<T> samples;
  MomentBlock<T> moments;
};

// One step on the D factors of one coordinate; returns the new weight. T is a number or a vector
// of lanes, so the formula exists once. A factor with lr 0 stays as it is.
template <int D, typename T>
SYMFAST_SWEEP_INLINE T step_coordinate(T (&factor)[D], T (&velocity)[D], T gradient,
                                       const T (&lr)[D], T momentum, T decay) {
  if constexpr (D == 1) {
    using Math = Arithmetic<T>;
    const T push = Math::multiply_add(decay, factor[0], gradient);
    velocity[0] = Math::multiply_add(momentum, velocity[0], push);
    factor[0] = Math::multiply_add(-lr[0], velocity[0], factor[0]);
    return factor[0];
  } else {
    step_factors<D, true>(factor, velocity, gradient, lr, momentum, decay);
    return product<D>(factor);
  }
}

// What a coordinate adds to the gradient of its gates.
template <typename T>
SYMFAST_SWEEP_INLINE T gate_gradient(T sum, T gradient, T own) {
  return Arithmetic<T>::multiply_add(gradient, own, sum);
}

// One step of a coordinate and its gates, `sum` over the group of gradient times f_0.
template <int D, typename T>
SYMFAST_SWEEP_INLINE T step_gated(T (&factor)[D], T (&velocity)[D], T gradient, T sum,
                                  const T (&lr)[D], T momentum, T decay) {
  using Math = Arithmetic<T>;
  T shared[D], others[D];
  SYMFAST_FACTOR_UNROLL
  for (int j = 0; j < D; ++j) shared[j] = j == 0 ? sum : factor[j];
  leave_one_out<D>(shared, others);
  SYMFAST_FACTOR_UNROLL
  for (int j = 0; j < D; ++j) {
    const T push = j == 0 ? Math::multiply_add(gradient, others[0], decay * factor[0])
                          : Math::multiply_add(decay, factor[j], others[j]);
    velocity[j] = Math::multiply_add(momentum, velocity[j], push);
    factor[j] = Math::multiply_add(-lr[j], velocity[j], factor[j]);
  }
  return product<D>(factor);
}

}  // namespace symfast
