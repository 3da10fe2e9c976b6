// SPDX-License-Identifier: Apache-2.0
// Arithmetic of the product-factor sweep, shared by the CPU lanes and the CUDA threads.
//
// A coordinate of the weight is w = f_0 f_1 ... f_{D-1}. One step of SGD with momentum m and
// coupled decay c on the factors, for a gradient g with respect to w:
//   v_j <- m v_j + g prod_{e != j} f_e + c f_j,    f_j <- f_j - lr v_j.
// With c = 2 lam / D the factors minimise  loss(w) + lam ||w||_{2/D}^{2/D}.
#pragma once

#include <cstdint>

#include "factor.h"

namespace symfast {

// Lanes of one CPU block: 128 bytes of replicas, whatever the instruction set.
template <typename T>
constexpr std::int64_t kSweepLanes = 128 / static_cast<std::int64_t>(sizeof(T));

enum class SweepStatus : std::int64_t { finished = 0, converged = 1, diverged = 2, cancelled = 3 };

// A whole sweep as plain pointers. B replicas, d coordinates, D = max_depth factor slots; factors
// and velocity are read and overwritten, the other outputs are only written.
template <typename T>
struct SweepArguments {
  const T* gram;              // (d, d), symmetric
  const T* linear;            // (d)
  const bool* factored;       // (d), false: a plain weight without decay
  const std::int64_t* depth;  // (B), 1..D
  const T* lr;                // (B)
  const T* momentum;          // (B)
  const T* lam;               // (B)
  T* weight;                  // (B, d)
  T* factors;                 // (B, D, d)
  T* velocity;                // (B, D, d)
  std::int64_t* steps_used;   // (B)
  T* residual;                // (B), max |dw| over the last interval between two checks
  std::int64_t* status;       // (B), SweepStatus
  std::int64_t* progress;     // (2): replica steps done so far; set [1] to cancel
  std::int64_t replicas, d, max_depth, steps, check_every;
  T tol;
};

// One CPU block of replicas of equal depth, as structure of arrays: lanes are contiguous.
template <typename T>
struct FactorBlock {
  const T* gram;
  const T* linear;
  const bool* factored;
  std::int64_t d;
  std::int64_t depth;
  T* weight;          // (d, lanes)
  T* next;            // (d, lanes), takes the weights after the step
  T* factor;          // (d, depth, lanes)
  T* velocity;        // (d, depth, lanes)
  const T* lr;        // (lanes)
  const T* momentum;  // (lanes)
  const T* decay;     // (lanes), 2 lam / depth
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

}  // namespace symfast
