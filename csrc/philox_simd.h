// SPDX-License-Identifier: Apache-2.0
// philox.h on SIMD lanes. A word sits in a 64-bit lane, where one instruction multiplies it to 64
// bits; two vectors of words interleave into one vector of 32-bit lanes for the normal numbers.
#pragma once
#include "philox.h"
#include "several_simd.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace symfast {
namespace SYMFAST_ISA {

typedef uint64_t Words64 __attribute__((vector_size(kVectorBytes)));
typedef int32_t Int32 __attribute__((vector_size(kVectorBytes)));

}  // namespace SYMFAST_ISA

#if defined(__SSE2__)
template <>
struct PhiloxMath<SYMFAST_ISA::Words64> {
  using W = SYMFAST_ISA::Words64;
  SF_INLINE W product(W a, uint32_t m) {
#if defined(__AVX512F__)
    return (W)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
    return (W)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#else
    return (W)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#endif
  }
  SF_INLINE W high(W product) {
#if defined(__AVX512F__)
    // a shuffle: the port of the shifts is busy with products
    return (W)_mm512_shuffle_epi32((__m512i)product, _MM_PERM_CDAB);
#else
    return product >> 32;
#endif
  }
};
#endif

template <typename V, int N>
struct PhiloxMath<SYMFAST_ISA::Several<V, N>> {
  using W = SYMFAST_ISA::Several<V, N>;
  SF_INLINE W product(const W& a, uint32_t m) {
    return a.each([m](V x) { return PhiloxMath<V>::product(x, m); });
  }
  SF_INLINE W high(const W& product) {
    return product.each([](V x) { return PhiloxMath<V>::high(x); });
  }
};

template <>
struct NormalMath<SYMFAST_ISA::Vec<float>> {
  using F = SYMFAST_ISA::Vec<float>;
  using Int = SYMFAST_ISA::Int32;
  using Word = SYMFAST_ISA::Bits32;
  SF_INLINE F to_float(Int i) { return __builtin_convertvector(i, F); }
  SF_INLINE Int bits(F x) { return (Int)x; }
  SF_INLINE F number(Int i) { return (F)i; }
  SF_INLINE F multiply_add(F a, F b, F c) {
#if defined(__AVX512F__)
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    for (int i = 0; i < SYMFAST_ISA::kLanes<float>; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
  }
  SF_INLINE F square_root(F x) {
#if defined(__AVX512F__)
    return (F)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (F)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (F)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < SYMFAST_ISA::kLanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
  }
};

namespace SYMFAST_ISA {

// 32-bit lanes 2 l and 2 l + 1 from lane l of two vectors of words.
SF_INLINE Bits32 interleave_words(Words64 even, Words64 odd) {
#if defined(__AVX512F__)
  return (Bits32)_mm512_mask_shuffle_epi32((__m512i)even, 0xaaaa, (__m512i)odd, _MM_PERM_CCAA);
#else
  return (Bits32)((even & 0xffffffffu) | odd << 32);
#endif
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
