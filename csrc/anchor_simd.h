// SPDX-License-Identifier: Apache-2.0
// anchor.h on SIMD lanes: the numbers of 64 adjacent elements in registers.
#pragma once
#include "anchor.h"
#include "philox_simd.h"

namespace symfast {

#if defined(__AVX2__)
template <>
struct AnchorSum<SYMFAST_ISA::Bits32> {
  using W = SYMFAST_ISA::Bits32;
  SF_INLINE W of(W word) {
    constexpr int weights = 0x3f403f40, halves = 257 << 16 | 255;
#if defined(__AVX512BW__)
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)word, _mm512_set1_epi32(weights));
    return (W)_mm512_madd_epi16(pairs, _mm512_set1_epi32(halves)) - 8290560u;
#else
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)word, _mm256_set1_epi32(weights));
    return (W)_mm256_madd_epi16(pairs, _mm256_set1_epi32(halves)) - 8290560u;
#endif
  }
};
#endif

template <typename V, int N>
struct AnchorSum<SYMFAST_ISA::Several<V, N>> {
  using W = SYMFAST_ISA::Several<V, N>;
  SF_INLINE W of(const W& word) {
    return word.each([](V x) { return AnchorSum<V>::of(x); });
  }
};

template <typename V, int N>
struct NormalMath<SYMFAST_ISA::Several<V, N>> {
  using F = SYMFAST_ISA::Several<V, N>;
  using Int = SYMFAST_ISA::Several<typename NormalMath<V>::Int, N>;
  SF_INLINE F to_float(const Int& i) {
    return i.each([](typename NormalMath<V>::Int x) { return NormalMath<V>::to_float(x); });
  }
  SF_INLINE F multiply_add(const F& a, const F& b, const F& c) {
    F found;
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      found.v[i] = NormalMath<V>::multiply_add(a.v[i], b.v[i], c.v[i]);
    }
    return found;
  }
};

namespace SYMFAST_ISA {

constexpr int64_t kDrawn = 64;  // elements drawn at once: two groups of noise
constexpr int kDrawnVectors = static_cast<int>(kDrawn) / kLanes<float>;
constexpr int kTogether = kVectorBytes == 64 ? 4 : 2;  // vectors whose chains overlap

// The numbers of kDrawn elements.
struct Drawn {
  Vec<float> v[kDrawnVectors];
};

// The anchor's words of adjacent elements within one stretch of 2^32 elements.
class AnchorWalk {
 public:
  SF_INLINE AnchorWalk make(const AnchorKeys& keys, int64_t element) {
    AnchorWalk walk;
    for (int l = 0; l < kLanes<float>; ++l) walk.at_[l] = static_cast<uint32_t>(l);
    walk.at_ += static_cast<uint32_t>(element) + keys.key[0];
    walk.key1_ = keys.key[1];
    return walk;
  }

  // The next kDrawn anchors, and how their decay differs if `spread` is asked for.
  template <bool with_spread>
  inline __attribute__((always_inline)) void next(Drawn& anchor, Drawn& spread) {
#pragma GCC unroll 8
    for (int first = 0; first < kDrawnVectors; first += kTogether) {
      Several<Bits32, kTogether> x;
#pragma GCC unroll 4
      for (int i = 0; i < kTogether; ++i) {
        x.v[i] = at_;
        at_ += static_cast<uint32_t>(kLanes<float>);
      }
      x = anchor_word(x, key1_);
      const auto z = word_normal<Several<Vec<float>, kTogether>>(x);
      for (int i = 0; i < kTogether; ++i) anchor.v[first + i] = z.v[i];
      if constexpr (with_spread) {
        const auto u = word_spread<Several<Vec<float>, kTogether>>(x);
        for (int i = 0; i < kTogether; ++i) spread.v[first + i] = u.v[i];
      }
    }
  }

 private:
  Bits32 at_;
  uint32_t key1_;
};

// The noise of elements [first, first + kDrawn), `first` a multiple of kDrawn; see noise_normal.
SF_INLINE void draw_noise(const RandomStream& stream, int64_t first, Drawn& noise) {
  constexpr int lanes = kVectorBytes / 8, calls = 8 / lanes;  // calls of Philox for 32 elements
  Words64 lane;
  for (int l = 0; l < lanes; ++l) lane[l] = static_cast<uint64_t>(l);
#pragma GCC unroll 4
  for (int call = 0; call < 2 * calls; call += 2) {
    Several<Words64, 2> block;
    for (int i = 0; i < 2; ++i) {
      block.v[i] = lane + static_cast<uint64_t>(first / 4 + lanes * (call + i));
    }
    const auto words = random_block<kNoiseRounds>(stream, block);
    Several<Bits32, 4> word;
    for (int i = 0; i < 2; ++i) {
      for (int v = 0; v < 2; ++v) {
        word.v[2 * i + v] = interleave_words(words.word[v].v[i], words.word[2 + v].v[i]);
      }
    }
    const auto z = word_normal<Several<Vec<float>, 4>>(word);
    for (int i = 0; i < 2; ++i) {
      const int group = (call + i) / calls, part = (call + i) % calls;
      for (int v = 0; v < 2; ++v) noise.v[calls * (2 * group + v) + part] = z.v[2 * i + v];
    }
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
