// SPDX-License-Identifier: Apache-2.0
// Steps on spans of parameters; compiled once per instruction set, without contraction (update.h).
#include "ahead_simd.h"
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

// The numbers of kDrawn elements in memory, for doubles and for the ends of a span.
struct DrawnFloats {
  alignas(64) float noise[kDrawn] = {}, anchor[kDrawn] = {}, spread[kDrawn] = {};

  static void store_all(float* to, const Drawn& drawn) {
    for (int i = 0; i < kDrawnVectors; ++i) store(to + i * kLanes<float>, drawn.v[i]);
  }

  // Of elements [first, first + kDrawn), `first` a multiple of kDrawn.
  __attribute__((noinline)) void fill(const StepScalars& s, int64_t first) {
    if (s.noise != 0) {
      Drawn drawn;
      draw_noise(noise_of(s), first, drawn);
      store_all(noise, drawn);
    }
    if (!s.anchored) return;
    Drawn anchors, spreads;
    AnchorWalk::make(s.anchor, first).next<true>(anchors, spreads);
    store_all(anchor, anchors);
    if (s.spread != 0) store_all(spread, spreads);
  }

  SF_INLINE RandomStream noise_of(const StepScalars& s) {
    return {s.noise_seed, kGradientNoise, s.parameter, s.step};
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
  StepNumbers<A> s;
  T* const p;
  const T* const g;
  T* const m;
  T* const v;
  const int64_t ahead;

  // Elements [i, i + lanes), or [i, i + some).
  template <bool partial>
  SF_INLINE void step(const Stepper& at, const RandomNumbers<V>& z, int64_t i, int64_t some) {
    const auto read = [&](const T* from) {
      if constexpr (partial) return load_some(from + i, some);
      return load(from + i);
    };
    const auto write = [&](T* target, V value) {
      if constexpr (partial) return store_some(target + i, value, some);
      store(target + i, value);
    };
    V p = read(at.p), m{}, v{};
    if constexpr (kHasFirst) m = read(at.m);
    if constexpr (kHasSecond) v = read(at.v);
    step_number<rule, decay, momentum, random>(at.s, z, read(at.g), p, m, v);
    write(at.p, p);
    if constexpr (kHasFirst) write(at.m, m);
    if constexpr (kHasSecond) write(at.v, v);
  }

  // Asks memory for what the kDrawn elements `ahead` of i need; 0: it does so itself.
  SF_INLINE void fetch(const Stepper& at, int64_t i) {
    if (at.ahead == 0) {
      if constexpr (kHasFirst) return;
      read_in_parts(at.p + i, kDrawn * sizeof(T));
      return read_in_parts(at.g + i, kDrawn * sizeof(T));
    }
    const auto lines = [&](const T* from) {
      const auto first = reinterpret_cast<uintptr_t>(from) + (i + at.ahead) * sizeof(T);
#pragma GCC unroll 8
      for (uintptr_t line = 0; line < kDrawn * sizeof(T); line += 64) {
        __builtin_prefetch(reinterpret_cast<const void*>(first + line));
      }
    };
    lines(at.p);
    lines(at.g);
    if constexpr (kHasFirst) lines(at.m);
    if constexpr (kHasSecond) lines(at.v);
  }

  void run(int64_t begin, int64_t end) const {
    const Stepper self = *this;  // its numbers in registers, whatever the stores may alias
    int64_t i = begin;
    for (; i + kDrawn <= end; i += kDrawn) {
      fetch(self, i);
      for (int64_t at = i; at < i + kDrawn; at += W) {
        step<false>(self, RandomNumbers<V>{}, at, W);
      }
    }
    for (; i + W <= end; i += W) step<false>(self, RandomNumbers<V>{}, i, W);
    if (i < end) step<true>(self, RandomNumbers<V>{}, i, end - i);
  }

  // Elements [begin, end) of the kDrawn from `first` on, a multiple of kDrawn.
  void run_part(const StepScalars& scalars, int64_t first, int64_t begin, int64_t end) const {
    DrawnFloats drawn;
    drawn.fill(scalars, first);
    for (int64_t i = begin; i < end; i += W) {
      const int64_t some = end - i < W ? end - i : W, at = i - first;
      const RandomNumbers<V> z = {read_random<A>(drawn.noise + at, some),
                                  read_random<A>(drawn.anchor + at, some),
                                  read_random<A>(drawn.spread + at, some)};
      some == W ? step<false>(*this, z, i, W) : step<true>(*this, z, i, some);
    }
  }

  // The numbers in registers, drawn beside the loads of the step.
  template <bool noise, bool anchor, bool spread>
  void run_whole(const StepScalars& scalars, int64_t begin, int64_t end) const {
    const RandomStream stream = DrawnFloats::noise_of(scalars);
    AnchorWalk walk = AnchorWalk::make(scalars.anchor, begin);
    Stepper self = *this;  // its numbers in registers, whatever the stores may alias
    self.s.anchored = anchor;
    for (int64_t i = begin; i < end; i += kDrawn) {
      fetch(self, i);
      Drawn n{}, a{}, d{};
      if constexpr (noise) draw_noise(stream, i, n);
      if constexpr (anchor) walk.template next<spread>(a, d);
#pragma GCC unroll 16
      for (int u = 0; u < kDrawnVectors; ++u) {
        step<false>(self, {n.v[u], a.v[u], d.v[u]}, i + u * W, W);
      }
    }
  }

  void pick_whole(const StepScalars& scalars, int64_t begin, int64_t end) const {
    if constexpr (decay == kNoDecay) return run_whole<true, false, false>(scalars, begin, end);
    if constexpr (random == kAnchorOnly) return run_whole<false, true, false>(scalars, begin, end);
    const bool spread = scalars.spread != 0;
    if (!scalars.anchored) return run_whole<true, false, false>(scalars, begin, end);
    if (scalars.noise == 0) return run_whole<false, true, true>(scalars, begin, end);
    if (spread) return run_whole<true, true, true>(scalars, begin, end);
    run_whole<true, true, false>(scalars, begin, end);
  }

  void run_random(const StepScalars& scalars, int64_t begin, int64_t end) const {
    int64_t i = begin;
    while (i < end) {
      const int64_t first = i / kDrawn * kDrawn, next = first + kDrawn;
      if constexpr (sizeof(A) == 4 && kVectorBytes >= 32) {
        if (i == first && next <= end) {
          const int64_t stop = end / kDrawn * kDrawn;
          pick_whole(scalars, i, stop);
          i = stop;
          continue;
        }
      }
      const int64_t stop = next < end ? next : end;
      run_part(scalars, first, i, stop);
      i = stop;
    }
  }
};

template <Rule rule, Decay decay, Momentum momentum, Randomness random, typename T>
void run_row(const Stepper<rule, decay, momentum, random, T>& stepper, const StepScalars& scalars,
             int64_t begin, int64_t end) {
  if constexpr (random == kNotRandom) return stepper.run(begin, end);
  StepScalars far;  // 2^32 elements share the keys of their anchor
  for (int64_t i = begin; i < end;) {
    const int64_t next = ((i >> 32) + 1) << 32, stop = next < end ? next : end;
    const StepScalars* now = &scalars;
    if (i >> 32) {
      far = scalars;
      set_anchor_keys(far, i);
      now = &far;
    }
    stepper.run_random(*now, i, stop);
    i = stop;
  }
}

template <Rule rule, Decay decay, Momentum momentum, Randomness random, typename T>
void run_span(const UpdateCall& call, const Span& span) {
  const auto t = span.tensor;
  const Stepper<rule, decay, momentum, random, T> stepper{
      StepNumbers<Acc<T>>(call.scalars[t]),
      static_cast<T*>(call.parameters[t]),
      static_cast<const T*>(call.gradients[t]),
      call.first ? static_cast<T*>(call.first[t]) : nullptr,
      call.second ? static_cast<T*>(call.second[t]) : nullptr,
      !call.asks_ahead ? 0
      : span.ahead     ? span.ahead
                       : kAheadBytes / static_cast<int64_t>(sizeof(T))};
  for (int64_t r = 0; r < span.rows; ++r) {
    const int64_t begin = span.begin + r * span.step;
    run_row(stepper, call.scalars[t], begin, begin + span.end - span.begin);
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
