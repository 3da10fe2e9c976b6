// SPDX-License-Identifier: Apache-2.0
// SIMD vectors for *_simd.cpp, in the widest registers of the instruction set being compiled.
// Arithmetic is the compiler's vector extension; only loads of half types, partial loads and sums
// need intrinsics. Everything has internal linkage: no copy may be linked into another set's code.
#pragma once
#include <cstdint>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored \
    "-Wmaybe-uninitialized"  // GCC 12: _mm512_undefined in its own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define SF_INLINE static inline __attribute__((always_inline))

namespace symfast {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

namespace SYMFAST_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <typename A>
using Vec = typename VectorOf<A>::type;
template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

// The type sums are kept in.
template <typename T>
struct Accumulate {
  using type = T;
};
template <>
struct Accumulate<bf16> {
  using type = float;
};
template <>
struct Accumulate<f16> {
  using type = float;
};
template <typename T>
using Acc = typename Accumulate<T>::type;

// ---- one number
// ----------------------------------------------------------------------------------
SF_INLINE double widen(double x) { return x; }
SF_INLINE float widen(float x) { return x; }
SF_INLINE float widen(bf16 x) { return __builtin_bit_cast(float, uint32_t{x.bits} << 16); }
SF_INLINE float widen(f16 x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return __builtin_bit_cast(float, sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // exponent re-biased by a multiplication, which also normalises subnormal numbers
  const float magnitude = __builtin_bit_cast(float, rest << 13) * 0x1p112f;
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, magnitude));
#endif
}

template <typename T>
struct Narrow;
template <>
struct Narrow<double> {
  SF_INLINE double of(double x) { return x; }
};
template <>
struct Narrow<float> {
  SF_INLINE float of(float x) { return x; }
};
template <>
struct Narrow<bf16> {  // round to nearest even; NaN keeps its sign and becomes quiet
  SF_INLINE bf16 of(float x) {
    const uint32_t u = __builtin_bit_cast(uint32_t, x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(u >> 16 | 0x40u)};
    return {static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
  }
};
template <>
struct Narrow<f16> {
  SF_INLINE f16 of(float x) {
#if defined(__F16C__)
    return {static_cast<uint16_t>(_cvtss_sh(x, 0))};
#else
    const uint32_t u = __builtin_bit_cast(uint32_t, x), sign = u >> 16 & 0x8000u;
    const uint32_t rest = u & 0x7fffffffu;
    if (rest > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u | (rest >> 13 & 0x3ffu))};
    if (rest >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (rest < 0x38800000u) {  // subnormal: let the adder round at bit 2^-24
      const float shifted = __builtin_bit_cast(float, rest) + 0.5f;
      return {static_cast<uint16_t>(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x3f000000u))};
    }
    const uint32_t rounded = rest + 0xfffu + (rest >> 13 & 1u) - 0x38000000u;
    return {static_cast<uint16_t>(sign | rounded >> 13)};
#endif
  }
};

template <typename T>
SF_INLINE void put(T* p, Acc<T> x) {
  *p = Narrow<T>::of(x);
}

// ---- vectors
// -------------------------------------------------------------------------------------
SF_INLINE Vec<float> load(const float* p) {
  Vec<float> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
SF_INLINE Vec<double> load(const double* p) {
  Vec<double> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
SF_INLINE void store(float* p, Vec<float> v) { __builtin_memcpy(p, &v, sizeof v); }
SF_INLINE void store(double* p, Vec<double> v) { __builtin_memcpy(p, &v, sizeof v); }

typedef uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Bits16 __attribute__((vector_size(kVectorBytes / 2)));

SF_INLINE Vec<float> load(const bf16* p) {
  Bits16 h;
  __builtin_memcpy(&h, p, sizeof h);
  return (Vec<float>)(__builtin_convertvector(h, Bits32) << 16);
}
SF_INLINE void store(bf16* p, Vec<float> v) {
  const Bits32 u = (Bits32)v;
  const Bits32 rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  const Bits32 quiet = u >> 16 | 0x40u;
  const Bits16 h =
      __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, Bits16);
  __builtin_memcpy(p, &h, sizeof h);
}
SF_INLINE Vec<float> load(const f16* p) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = widen(p[i]);
  return v;
#endif
}
SF_INLINE void store(f16* p, Vec<float> v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, 0));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, 0));
#else
  for (int i = 0; i < kLanes<float>; ++i) p[i] = Narrow<f16>::of(v[i]);
#endif
}

// The first n < lanes numbers; the other lanes load as zero and are not stored.
template <typename T>
SF_INLINE Vec<Acc<T>> load_some(const T* p, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p);
  } else if constexpr (sizeof(T) == 8) {
    return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p);
  } else {
    const auto mask = static_cast<__mmask16>((1u << n) - 1u);
    T whole[kLanes<float>];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(whole), _mm256_maskz_loadu_epi16(mask, p));
    return load(whole);
  }
#else
  T whole[kLanes<Acc<T>>] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load(whole);
#endif
}
template <typename T>
SF_INLINE void store_some(T* p, Vec<Acc<T>> v, int64_t n) {
  T whole[kLanes<Acc<T>>];
  store(whole, v);
  const T* from = whole;
  // in powers of two: masked stores are slow on several processors
  const auto put_block = [&]<int count>() {
    if constexpr (count < kLanes<Acc<T>>) {
      if (n & count) {
        __builtin_memcpy(p, from, count * sizeof(T));
        p += count;
        from += count;
      }
    }
  };
  put_block.template operator()<8>();
  put_block.template operator()<4>();
  put_block.template operator()<2>();
  put_block.template operator()<1>();
}

// Lane l of the result is lane from[l] of a followed by b.
template <typename A, int... from>
SF_INLINE Vec<A> shuffle(Vec<A> a, Vec<A> b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, from...);
#else
  using Number = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  typedef Number From __attribute__((vector_size(kVectorBytes)));
  return __builtin_shuffle(a, b, From{Number(from)...});
#endif
}

// v stays in its register: a compiler would read a number of the frame from memory at every use.
template <typename V>
SF_INLINE void keep(V& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#endif
}

// Sum of all lanes, always in the same order.
SF_INLINE float sum(Vec<float> v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float s = 0;
  for (int i = 0; i < kLanes<float>; ++i) s += v[i];
  return s;
#endif
}
SF_INLINE double sum(Vec<double> v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_pd((__m512d)v);
#else
  double s = 0;
  for (int i = 0; i < kLanes<double>; ++i) s += v[i];
  return s;
#endif
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
