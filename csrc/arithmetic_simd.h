// SPDX-License-Identifier: Apache-2.0
// Vectors of lanes in memory, and a * b + c of them, for *_simd.cpp.
#pragma once
#include "arithmetic.h"
#include "simd.h"

namespace symfast {
namespace SYMFAST_ISA {

// The numbers from p on, which is aligned, as the vector they are.
template <typename T>
SF_INLINE Vec<T>& lanes(T* p) {
  return *reinterpret_cast<Vec<T>*>(p);
}
template <typename T>
SF_INLINE const Vec<T>& lanes(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

}  // namespace SYMFAST_ISA

#if defined(__AVX512F__)
template <>
struct Arithmetic<SYMFAST_ISA::Vec<double>> {
  using V = SYMFAST_ISA::Vec<double>;
  SYMFAST_SWEEP_INLINE static V multiply_add(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
};
template <>
struct Arithmetic<SYMFAST_ISA::Vec<float>> {
  using V = SYMFAST_ISA::Vec<float>;
  SYMFAST_SWEEP_INLINE static V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
};
#elif defined(__AVX2__)
template <>
struct Arithmetic<SYMFAST_ISA::Vec<double>> {
  using V = SYMFAST_ISA::Vec<double>;
  SYMFAST_SWEEP_INLINE static V multiply_add(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
};
template <>
struct Arithmetic<SYMFAST_ISA::Vec<float>> {
  using V = SYMFAST_ISA::Vec<float>;
  SYMFAST_SWEEP_INLINE static V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
};
#else
template <typename V, int N>
SYMFAST_SWEEP_INLINE V multiply_add_lanes(V a, V b, V c) {
#if defined(__FP_FAST_FMA)
  V result;
  for (int i = 0; i < N; ++i)
    result[i] =
        sizeof(a[i]) == 8 ? __builtin_fma(a[i], b[i], c[i]) : __builtin_fmaf(a[i], b[i], c[i]);
  return result;
#else
  return a * b + c;
#endif
}
template <>
struct Arithmetic<SYMFAST_ISA::Vec<double>> {
  using V = SYMFAST_ISA::Vec<double>;
  SYMFAST_SWEEP_INLINE static V multiply_add(V a, V b, V c) {
    return multiply_add_lanes<V, SYMFAST_ISA::kLanes<double>>(a, b, c);
  }
};
template <>
struct Arithmetic<SYMFAST_ISA::Vec<float>> {
  using V = SYMFAST_ISA::Vec<float>;
  SYMFAST_SWEEP_INLINE static V multiply_add(V a, V b, V c) {
    return multiply_add_lanes<V, SYMFAST_ISA::kLanes<float>>(a, b, c);
  }
};
#endif

}  // namespace symfast
