// SPDX-License-Identifier: Apache-2.0
// Steps on spans of parameters; compiled once per instruction set, without contraction (update.h).
#include "anchor_simd.h"
#include "update_call.h"

namespace symfast {

template <>
struct UpdateMath<SYMFAST_ISA::Vec<float>> : NormalMath<SYMFAST_ISA::Vec<float>> {};

template <>
struct UpdateMath<SYMFAST_ISA::Vec<double>> {
  using V = SYMFAST_ISA::Vec<double>;
  SF_INLINE V multiply_add(V a, V b, V c) {
#if defined(__AVX512F__)
    return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
    return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    for (int i = 0; i < SYMFAST_ISA::kLanes<double>; ++i) c[i] = __builtin_fma(a[i], b[i], c[i]);
    return c;
#endif
  }
  SF_INLINE V square_root(V x) {
#if defined(__AVX512F__)
    return (V)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
    return (V)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
    return (V)_mm_sqrt_pd((__m128d)x);
#else
    for (int i = 0; i < SYMFAST_ISA::kLanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
    return x;
#endif
  }
};

namespace SYMFAST_ISA {
namespace {

constexpr int64_t kPiece = 512;  // elements whose random numbers wait in the first-level cache

// Random numbers of elements [64 group, 64 group + kPiece) of one parameter.
struct RandomPiece {
  alignas(64) float noise[kPiece], anchor[kPiece], spread[kPiece];

  void fill(const StepScalars& s, int64_t group, int64_t groups) {
    if (s.noise != 0) {
      const RandomStream stream{s.noise_seed, kGradientNoise, s.parameter, s.step};
      for (int64_t i = 0; i < groups; ++i) noise_group(stream, group + i, noise + 64 * i);
    }
    if (!s.anchored) return;
    AnchorWalk at = AnchorWalk::make(s.anchor, 64 * group);
    AnchorWalk spreads = AnchorWalk::make(s.spread_keys, 64 * group);
    for (int64_t i = 0; i < 64 * groups; i += kLanes<float>) {
      store(anchor + i, anchor_lanes(at.next()));
      if (s.spread != 0) store(spread + i, spread_lanes(spreads.next()));
    }
  }
};

// A vector of A from floats, `some` < lanes of them at the end.
template <typename A>
SF_INLINE Vec<A> read_random(const float* p, int64_t some) {
  Vec<A> v{};
  if constexpr (sizeof(A) == 4) {
    return some < kLanes<float> ? load_some(p, some) : load(p);
  } else {
    for (int64_t i = 0; i < kLanes<A> && i < some; ++i) v[i] = p[i];
    return v;
  }
}

template <Rule rule, Decay decay, Momentum momentum, Randomness random, typename T>
struct Stepper {
  using A = Acc<T>;
  using V = Vec<A>;
  static constexpr bool kHasFirst = rule == kAdam || momentum != kNoMomentum;
  static constexpr bool kHasSecond = rule == kAdam;
  static constexpr int64_t W = kLanes<A>;
  const StepNumbers<A> s;
  T* const p;
  const T* const g;
  T* const m;
  T* const v;

  // Elements [i, i + lanes), or [i, i + some).
  template <bool partial>
  SF_INLINE void step(const Stepper& at, const RandomNumbers<V>& z, int64_t i, int64_t some) {
    const auto read = [&](const T* from) {
      if constexpr (partial) return load_some(from + i, some);
      return load(from + i);
    };
    const auto write = [&](T* to, V value) {
      if constexpr (partial) return store_some(to + i, value, some);
      store(to + i, value);
    };
    V p = read(at.p), m{}, v{};
    if constexpr (kHasFirst) m = read(at.m);
    if constexpr (kHasSecond) v = read(at.v);
    step_number<rule, decay, momentum, random>(at.s, z, read(at.g), p, m, v);
    write(at.p, p);
    if constexpr (kHasFirst) write(at.m, m);
    if constexpr (kHasSecond) write(at.v, v);
  }

  void run(int64_t begin, int64_t end) const {
    int64_t i = begin;
    for (; i + W <= end; i += W) step<false>(*this, RandomNumbers<V>{}, i, W);
    if (i < end) step<true>(*this, RandomNumbers<V>{}, i, end - i);
  }

  // The anchor in registers, beside the loads of the step.
  void run_anchored(const StepScalars& scalars, int64_t begin, int64_t end) const {
    AnchorWalk walk = AnchorWalk::make(scalars.anchor, begin);
    int64_t i = begin;
    for (; i + W <= end; i += W) step<false>(*this, {V{}, anchor_lanes(walk.next()), V{}}, i, W);
    if (i < end) step<true>(*this, {V{}, anchor_lanes(walk.next()), V{}}, i, end - i);
  }

  void run_random(const StepScalars& scalars, int64_t begin, int64_t end) const {
    RandomPiece piece;
    for (int64_t start = begin; start < end;) {
      const int64_t group = start / 64,
                    stop = group * 64 + kPiece < end ? group * 64 + kPiece : end;
      piece.fill(scalars, group, (stop - group * 64 + 63) / 64);
      const int64_t base = group * 64;
      for (int64_t i = start; i < stop; i += W) {
        const int64_t some = stop - i < W ? stop - i : W, at = i - base;
        RandomNumbers<V> z{};
        if (scalars.noise != 0) z.noise = read_random<A>(piece.noise + at, some);
        if (scalars.anchored) z.anchor = read_random<A>(piece.anchor + at, some);
        if (scalars.anchored && scalars.spread != 0) {
          z.spread = read_random<A>(piece.spread + at, some);
        }
        some == W ? step<false>(*this, z, i, W) : step<true>(*this, z, i, some);
      }
      start = stop;
    }
  }
};

template <Rule rule, Decay decay, Momentum momentum, Randomness random, typename T>
void run_span(const UpdateCall& call, const Span& span) {
  const auto t = span.tensor;
  const StepScalars& scalars = call.scalars[t];
  const Stepper<rule, decay, momentum, random, T> stepper{
      StepNumbers<Acc<T>>(scalars), static_cast<T*>(call.parameters[t]),
      static_cast<const T*>(call.gradients[t]),
      call.first ? static_cast<T*>(call.first[t]) : nullptr,
      call.second ? static_cast<T*>(call.second[t]) : nullptr};
  if constexpr (random == kNotRandom) return stepper.run(span.begin, span.end);
  StepScalars far;  // 2^32 elements share the keys of their anchor
  for (int64_t i = span.begin; i < span.end;) {
    const int64_t next = ((i >> 32) + 1) << 32, stop = next < span.end ? next : span.end;
    const StepScalars* now = &scalars;
    if (i >> 32) {
      far = scalars;
      set_anchor_keys(far, i);
      now = &far;
    }
    if constexpr (random == kAnchorOnly && sizeof(Acc<T>) == 4) {
      stepper.run_anchored(*now, i, stop);
    } else {
      stepper.run_random(*now, i, stop);
    }
    i = stop;
  }
}

template <Rule rule, Decay decay, Momentum momentum, typename T>
void pick_random(const UpdateCall& call, const Span& span) {
  switch (call.scalars[span.tensor].randomness) {
    case kNotRandom:
      return run_span<rule, decay, momentum, kNotRandom, T>(call, span);
    case kAnchorOnly:
      if constexpr (decay != kNoDecay) {
        return run_span<rule, decay, momentum, kAnchorOnly, T>(call, span);
      }
      break;
    default:
      return run_span<rule, decay, momentum, kRandom, T>(call, span);
  }
}

template <typename T>
void pick_rule(const UpdateCall& call, const Span& span) {
  const StepScalars& s = call.scalars[span.tensor];
  if (call.rule == kAdam) {
    if (s.decay_form == kNoDecay) return pick_random<kAdam, kNoDecay, kNoMomentum, T>(call, span);
    if (s.decay_form == kCoupled) return pick_random<kAdam, kCoupled, kNoMomentum, T>(call, span);
    return pick_random<kAdam, kDecoupled, kNoMomentum, T>(call, span);
  }
  if (s.decay_form == kNoDecay) {
    if (s.momentum_form == kNoMomentum) {
      return pick_random<kSgd, kNoDecay, kNoMomentum, T>(call, span);
    }
    if (s.momentum_form == kMomentum) return pick_random<kSgd, kNoDecay, kMomentum, T>(call, span);
    return pick_random<kSgd, kNoDecay, kNesterov, T>(call, span);
  }
  if (s.momentum_form == kNoMomentum)
    return pick_random<kSgd, kCoupled, kNoMomentum, T>(call, span);
  if (s.momentum_form == kMomentum) return pick_random<kSgd, kCoupled, kMomentum, T>(call, span);
  pick_random<kSgd, kCoupled, kNesterov, T>(call, span);
}

}  // namespace

void update_span(const UpdateCall& call, const Span& span) {
  switch (call.number) {
    case Number::f64:
      return pick_rule<double>(call, span);
    case Number::f32:
      return pick_rule<float>(call, span);
    case Number::bf16:
      return pick_rule<bf16>(call, span);
    case Number::f16:
      return pick_rule<f16>(call, span);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
