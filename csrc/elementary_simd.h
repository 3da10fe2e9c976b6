// SPDX-License-Identifier: Apache-2.0
// elementary.h for vectors of lanes, for *_simd.cpp.
#pragma once
#include "arithmetic_simd.h"
#include "elementary.h"
#include "simd.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace symfast {
namespace SYMFAST_ISA {

typedef std::int32_t Integers32 __attribute__((vector_size(kVectorBytes)));
typedef std::int64_t Integers64 __attribute__((vector_size(kVectorBytes)));

SF_INLINE Vec<float> root(Vec<float> x) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (Vec<float>)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < kLanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
SF_INLINE Vec<double> root(Vec<double> x) {
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
  return (Vec<double>)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
  return (Vec<double>)_mm_sqrt_pd((__m128d)x);
#else
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// Lane by lane the table's entry of the last three bits.
SF_INLINE Vec<double> entry(Integers64 bits, const double (&table)[8]) {
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_permutexvar_pd((__m512i)bits, _mm512_loadu_pd(table));
#else
  Vec<double> result;
  for (int i = 0; i < kLanes<double>; ++i) result[i] = table[bits[i] & 7];
  return result;
#endif
}

// a > b ? a : b and a < b ? a : b: one instruction, where a comparison and a choice are two.
SF_INLINE Vec<float> larger(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
SF_INLINE Vec<double> larger(Vec<double> a, Vec<double> b) {
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  return (Vec<double>)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
  return a > b ? a : b;
#endif
}
SF_INLINE Vec<float> smaller(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}
SF_INLINE Vec<double> smaller(Vec<double> a, Vec<double> b) {
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  return (Vec<double>)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
  return a < b ? a : b;
#endif
}

}  // namespace SYMFAST_ISA

template <>
struct Lanes<SYMFAST_ISA::Vec<float>> {
  using V = SYMFAST_ISA::Vec<float>;
  using Number = float;
  using Integer = SYMFAST_ISA::Integers32;
  SYMFAST_SWEEP_INLINE static V root(V x) { return SYMFAST_ISA::root(x); }
  SYMFAST_SWEEP_INLINE static V larger(V a, V b) { return SYMFAST_ISA::larger(a, b); }
  SYMFAST_SWEEP_INLINE static V smaller(V a, V b) { return SYMFAST_ISA::smaller(a, b); }
};
template <>
struct Lanes<SYMFAST_ISA::Vec<double>> {
  using V = SYMFAST_ISA::Vec<double>;
  using Number = double;
  using Integer = SYMFAST_ISA::Integers64;
  SYMFAST_SWEEP_INLINE static V root(V x) { return SYMFAST_ISA::root(x); }
  SYMFAST_SWEEP_INLINE static V entry(Integer bits, const double (&table)[8]) {
    return SYMFAST_ISA::entry(bits, table);
  }
  SYMFAST_SWEEP_INLINE static V larger(V a, V b) { return SYMFAST_ISA::larger(a, b); }
  SYMFAST_SWEEP_INLINE static V smaller(V a, V b) { return SYMFAST_ISA::smaller(a, b); }
};

}  // namespace symfast
