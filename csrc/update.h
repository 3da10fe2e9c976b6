// SPDX-License-Identifier: Apache-2.0
// One step of SGD, Adam or AdamW on one number, shared by CPU lanes and CUDA threads.
//
// With g the gradient (times +-1 / grad_scale), z_n gradient noise, a = sigma z_a the anchor and D
// the strength of its decay (1 without spread):
//   g   <- g + noise z_n
//   g   <- g + decay D (p - a)                          coupled decay
//   SGD:  m <- momentum m + (1 - dampening) g;  g <- g + momentum m (Nesterov) or m
//         p <- p - lr g
//   Adam: p <- (1 - lr decay) p, or p - lr decay D (p - a)       decoupled decay (AdamW)
//         m <- m + (1 - beta1) (g - m), from g where beta1 <= 1/2;  v <- beta2 v + (1 - beta2) g^2
//         p <- p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
// Every product that feeds a sum is one fused multiply-add where torch's CPU kernels have one, so
// that SGD gives torch's bits; no compiler may contract the others (CMakeLists.txt).
#pragma once
#include <cstdint>

#include "anchor.h"
#include "power.h"

namespace symfast {

enum Rule : int64_t { kSgd = 0, kAdam = 1 };
enum Decay : int { kNoDecay = 0, kCoupled = 1, kDecoupled = 2 };
enum Randomness : int { kNotRandom = 0, kAnchorOnly = 1, kRandom = 2 };  // only: without spread
enum Momentum : int { kNoMomentum = 0, kMomentum = 1, kNesterov = 2 };

// Columns of the float64 table of settings, one row for parameters that share them; symfast/optim
// has the same.
enum Setting : int64_t {
  kLr,
  kDecayRate,
  kDecoupledDecay,  // 0 or 1
  kFirst,           // momentum, or beta1
  kSecond,          // 1 - dampening, or beta2
  kEps,
  kNesterovForm,  // 0 or 1
  kGradientSign,  // 1, or -1 to maximise
  kNoise,         // standard deviation of the gradient noise
  kSigma,         // of the anchor; negative: no anchor
  kSpread,        // D in [1 - spread, 1 + spread)
  kSettings
};

// Columns of the int64 table of keys, one row for each parameter.
enum Key : int64_t { kRow, kNoiseSeed, kAnchorSeed, kParameter, kKeys };

// What a step on one parameter needs, worked out once.
struct StepScalars {
  double gradient;                        // sign / grad_scale
  double lr;                              // Adam: lr / (1 - beta1^t)
  double decay;                           // coupled: rate; decoupled: lr rate
  double keep;                            // decoupled without anchor: 1 - lr rate
  double first, fresh, second, residual;  // factors of m, of g in m, of v, of g^2 in v
  double root, eps;                       // 1 / sqrt(1 - beta2^t)
  double noise, sigma, spread;
  uint64_t noise_seed, anchor_seed;
  uint32_t parameter, step;
  int32_t decay_form, momentum_form;
  AnchorKeys anchor;  // of the first 2^32 elements
  int32_t randomness;
  bool anchored;
};

// The keys of the 2^32 elements around this one.
SF_HOST_DEVICE void set_anchor_keys(StepScalars& s, int64_t element) {
  s.anchor = anchor_keys(s.anchor_seed, s.parameter, element);
}

SF_HOST_DEVICE StepScalars step_scalars(Rule rule, const double* row, const int64_t* key,
                                        double step, double grad_scale) {
  StepScalars s{};
  const double rate = row[kDecayRate], lr = row[kLr];
  s.gradient = row[kGradientSign] / grad_scale;
  s.lr = lr;
  s.first = row[kFirst];
  s.fresh = row[kSecond];
  s.step = static_cast<uint32_t>(step);
  s.decay_form = rate == 0 ? kNoDecay : row[kDecoupledDecay] != 0 ? kDecoupled : kCoupled;
  s.decay = s.decay_form == kDecoupled ? lr * rate : rate;
  s.keep = 1 - lr * rate;
  if (rule == kSgd) {
    s.momentum_form = row[kFirst] == 0          ? kNoMomentum
                      : row[kNesterovForm] != 0 ? kNesterov
                                                : kMomentum;
  } else {
    s.fresh = 1 - row[kFirst];
    s.second = row[kSecond];
    s.residual = 1 - row[kSecond];
    s.lr = lr / (1 - whole_power(row[kFirst], s.step));
    s.root = 1 / __builtin_sqrt(1 - whole_power(row[kSecond], s.step));
    s.eps = row[kEps];
  }
  s.noise = row[kNoise];
  s.sigma = row[kSigma];
  s.spread = row[kSpread];
  s.anchored = s.decay_form != kNoDecay && s.sigma >= 0;
  s.randomness = s.noise != 0 || (s.anchored && s.spread != 0) ? kRandom
                 : s.anchored                                  ? kAnchorOnly
                                                               : kNotRandom;
  s.noise_seed = static_cast<uint64_t>(key[kNoiseSeed]);
  s.anchor_seed = static_cast<uint64_t>(key[kAnchorSeed]);
  s.parameter = static_cast<uint32_t>(key[kParameter]);
  if (s.anchored) set_anchor_keys(s, 0);
  return s;
}

// StepScalars in the type of the arithmetic.
template <typename A>
struct StepNumbers {
  A gradient, lr, decay, keep, first, fresh, second, residual, root, eps, noise, sigma, spread;
  bool anchored, near_fresh;  // near_fresh: m is nearer to g, and counted from there

  SF_HOST_DEVICE explicit StepNumbers(const StepScalars& s)
      : gradient(static_cast<A>(s.gradient)),
        lr(static_cast<A>(s.lr)),
        decay(static_cast<A>(s.decay)),
        keep(static_cast<A>(s.keep)),
        first(static_cast<A>(s.first)),
        fresh(static_cast<A>(s.fresh)),
        second(static_cast<A>(s.second)),
        residual(static_cast<A>(s.residual)),
        root(static_cast<A>(s.root)),
        eps(static_cast<A>(s.eps)),
        noise(static_cast<A>(s.noise)),
        sigma(static_cast<A>(s.sigma)),
        spread(static_cast<A>(s.spread)),
        anchored(s.anchored),
        near_fresh(s.fresh >= 0.5) {}
};

// Random numbers of one element, or of a vector of them: noise, anchor, and 2 u - 1 for D.
template <typename V>
struct RandomNumbers {
  V noise, anchor, spread;
};

// a * b + c rounded once, and the square root; V is a number or a vector of numbers.
template <typename V>
struct UpdateMath {
#if defined(__CUDA_ARCH__)
  __device__ static float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  __device__ static double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
  __device__ static float square_root(float x) { return __fsqrt_rn(x); }
  __device__ static double square_root(double x) { return __dsqrt_rn(x); }
#else
  SF_HOST_DEVICE static float multiply_add(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
  }
  SF_HOST_DEVICE static double multiply_add(double a, double b, double c) {
    return __builtin_fma(a, b, c);
  }
  SF_HOST_DEVICE static float square_root(float x) { return __builtin_sqrtf(x); }
  SF_HOST_DEVICE static double square_root(double x) { return __builtin_sqrt(x); }
#endif
};

// The step on p with gradient g and state m, v: the formula at the top of this file.
template <Rule rule, Decay decay, Momentum momentum, Randomness random, typename V, typename A>
SF_HOST_DEVICE void step_number(const StepNumbers<A>& s, const RandomNumbers<V>& z, V g, V& p, V& m,
                                V& v) {
  using M = UpdateMath<V>;
  const auto all = [](A x) { return V{} + x; };
  g = g * s.gradient;
  if constexpr (random == kRandom) g = M::multiply_add(all(s.noise), z.noise, g);
  V strength = all(s.decay), away = p;
  const bool anchored = random == kAnchorOnly || (random == kRandom && s.anchored);
  if (decay != kNoDecay && anchored) {
    if constexpr (random == kRandom) {
      strength = strength * M::multiply_add(all(s.spread), z.spread, all(A(1)));
    }
    away = M::multiply_add(all(-s.sigma), z.anchor, p);
  }
  if constexpr (decay == kCoupled) g = M::multiply_add(strength, away, g);
  if constexpr (decay == kDecoupled) {
    p = anchored ? M::multiply_add(-strength, away, p) : p * s.keep;
  }
  if constexpr (rule == kSgd) {
    if constexpr (momentum != kNoMomentum) {
      m = M::multiply_add(all(s.fresh), g, m * s.first);
      if constexpr (momentum == kNesterov) {
        g = M::multiply_add(all(s.first), m, g);
      } else {
        g = m;
      }
    }
    p = M::multiply_add(all(-s.lr), g, p);
  } else {
    m = s.near_fresh ? M::multiply_add(all(s.fresh - A(1)), g - m, g)
                     : M::multiply_add(all(s.fresh), g - m, m);
    v = M::multiply_add(g * s.residual, g, v * s.second);
    const V size = M::multiply_add(M::square_root(v), all(s.root), all(s.eps));
    p = M::multiply_add(all(-s.lr), m / size, p);
  }
}

}  // namespace symfast
