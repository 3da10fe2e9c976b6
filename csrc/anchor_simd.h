// SPDX-License-Identifier: Apache-2.0
// anchor.h on SIMD lanes: one vector of words, one vector of numbers.
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

namespace SYMFAST_ISA {

// The words of adjacent elements, a vector at a time, within one stretch of 2^32 elements.
class AnchorWalk {
 public:
  SF_INLINE AnchorWalk make(const AnchorKeys& keys, int64_t element) {
    AnchorWalk walk;
    for (int l = 0; l < kLanes<float>; ++l) walk.at_[l] = static_cast<uint32_t>(l);
    walk.at_ += static_cast<uint32_t>(element) + keys.key[0];
    walk.key1_ = keys.key[1];
    return walk;
  }
  inline __attribute__((always_inline)) Bits32 next() {
    const Bits32 word = anchor_word(at_, key1_);
    at_ += static_cast<uint32_t>(kLanes<float>);
    return word;
  }

 private:
  Bits32 at_;
  uint32_t key1_;
};

SF_INLINE Vec<float> anchor_lanes(Bits32 word) { return anchor_number<Vec<float>>(word); }
SF_INLINE Vec<float> spread_lanes(Bits32 word) { return spread_number<Vec<float>>(word); }

}  // namespace SYMFAST_ISA
}  // namespace symfast
