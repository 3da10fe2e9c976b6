// SPDX-License-Identifier: Apache-2.0
// Arithmetic of product factors w = f_0 f_1 ... f_{D-1}, shared by CPU lanes and CUDA threads.
//
// The gradient of factor j is g prod_{e != j} f_e. One step of SGD with momentum m and coupled
// decay c on the factors, for a gradient g with respect to w:
//   v_j <- m v_j + g prod_{e != j} f_e + c f_j,    f_j <- f_j - lr v_j.
// With c = 2 lam / D the factors minimise  loss(w) + lam ||w||_{2/D}^{2/D}.
#pragma once

#include <cstdint>

#include "arithmetic.h"

#if defined(__CUDA_ARCH__)
#define SYMFAST_FACTOR_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)
#define SYMFAST_FACTOR_UNROLL
#else
#define SYMFAST_FACTOR_UNROLL _Pragma("GCC unroll 6")
#endif

namespace symfast {

// Largest number of factors of one weight; symfast/factor_sweep.py has the same number.
constexpr std::int64_t kMaxDepth = 6;

// `others[j]` becomes the product of all factors but j, by prefix and suffix products because a
// factor may be exactly zero.
template <int D, typename T>
SYMFAST_SWEEP_INLINE void leave_one_out(const T (&factor)[D], T (&others)[D]) {
  static_assert(D >= 2, "a single factor has no others");
  others[1] = factor[0];
  SYMFAST_FACTOR_UNROLL
  for (int j = 2; j < D; ++j) others[j] = others[j - 1] * factor[j - 1];
  T suffix = factor[D - 1];
  SYMFAST_FACTOR_UNROLL
  for (int j = D - 2; j > 0; --j) {
    others[j] = others[j] * suffix;
    suffix = suffix * factor[j];
  }
  others[0] = suffix;
}

// Product of D factors, last to first.
template <int D, typename T>
SYMFAST_SWEEP_INLINE T product(const T (&factor)[D]) {
  T result = factor[D - 1];
  SYMFAST_FACTOR_UNROLL
  for (int j = D - 2; j >= 0; --j) result = result * factor[j];
  return result;
}

// One step on D >= 2 factors. T is a number or a vector of lanes, so the formula exists once.
// Without momentum the velocity is neither read nor written.
template <int D, bool kMomentum, typename T>
SYMFAST_SWEEP_INLINE void step_factors(T (&factor)[D], T (&velocity)[D], T gradient,
                                       const T (&lr)[D], T momentum, T decay) {
  using Math = Arithmetic<T>;
  T others[D];
  leave_one_out<D>(factor, others);
  SYMFAST_FACTOR_UNROLL
  for (int j = 0; j < D; ++j) {
    T push = Math::multiply_add(gradient, others[j], decay * factor[j]);
    if constexpr (kMomentum) {
      push = Math::multiply_add(momentum, velocity[j], push);
      velocity[j] = push;
    }
    factor[j] = Math::multiply_add(-lr[j], push, factor[j]);
  }
}

// What one step does besides its tensors.
struct FactorRates {
  double lr, momentum, decay;
};

// Columns of the float64 table of settings, one row for weights that share them;
// symfast/reference/factor.py has the same.
enum FactorSetting : std::int64_t { kFactorLr, kFactorMomentum, kFactorDecay, kFactorSettings };

// One weight of n numbers as plain pointers. Weight and gradient are of type T, the rest of the
// type its sums are kept in; factors and velocity are (depth, n).
struct FactorItem {
  void* weight;
  const void* gradient;
  void* factors;
  void* velocity;  // null without momentum
  std::int64_t size, depth;
  std::int64_t row;  // of the settings
};

}  // namespace symfast
