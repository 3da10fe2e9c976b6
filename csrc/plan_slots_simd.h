// SPDX-License-Identifier: Apache-2.0
// Slots of plan_gather_simd.h: the numbers that a few rows hold of one unit, side by side, so that
// a unit is one load wherever it lies.
#pragma once
#include <utility>

#include "simd.h"

namespace symfast {
namespace SYMFAST_ISA {

typedef uint64_t Bits64 __attribute__((vector_size(kVectorBytes)));

// As many numbers of a table as V has lanes. Compilers widen by four one at a time: intrinsics.
template <typename V>
SF_INLINE V load_numbers(const uint16_t* p) {
  constexpr bool wide = sizeof(V{}[0]) == 8;
#if defined(__AVX512F__)
  if constexpr (wide) return (V)_mm512_cvtepu16_epi64(_mm_loadu_si128((const __m128i*)p));
  if constexpr (!wide) return (V)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  if constexpr (wide) return (V)_mm256_cvtepu16_epi64(_mm_loadl_epi64((const __m128i*)p));
  if constexpr (!wide) return (V)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#else
  V numbers;
  for (int i = 0; i < kVectorBytes / (wide ? 8 : 4); ++i) numbers[i] = p[i];
  return numbers;
#endif
}

// `size` numbers of a and b in turn, from the lower or upper half of every 16 bytes.
template <typename A, int size, bool upper, int... lane>
SF_INLINE Vec<A> unpack(Vec<A> a, Vec<A> b, std::integer_sequence<int, lane...>) {
  constexpr int W = kLanes<A>, N = 16 / static_cast<int>(sizeof(A));
  return shuffle<A, (lane / N * N + (upper ? N / 2 : 0) + lane % N / (2 * size) * size +
                     lane % size + (lane / size & 1) * W)...>(a, b);
}

// The even or odd numbers of a, then those of b, within every 16 bytes: undoes two unpacks.
template <typename A, bool odd, int... lane>
SF_INLINE Vec<A> repack(Vec<A> a, Vec<A> b, std::integer_sequence<int, lane...>) {
  constexpr int W = kLanes<A>, N = 16 / static_cast<int>(sizeof(A));
  return shuffle<A, (lane / N * N + lane % (N / 2) * 2 + odd + lane % N / (N / 2) * W)...>(a, b);
}

#if defined(__AVX512F__)
// 8 bytes of a, then 8 bytes of b.
SF_INLINE __m128 two_words(const float* a, const float* b) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(a));
  return _mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(b));
}
#endif

// Slots are collected by plain loads, which no processor is slow at, as several are at gathering.
// Slots of 8 bytes take twice as many as of 16, but leave half as much to keep near.
template <typename A, int bytes>
struct Slots {
  static constexpr int kRows = bytes / static_cast<int>(sizeof(A));  // numbers of a slot
  static constexpr int kCount = kVectorBytes / bytes;                // slots of a vector
  static constexpr int W = kLanes<A>;
  using Lane = std::make_integer_sequence<int, W>;

  // Where the slot of a unit lies after `turn`, which shuffles within 16 bytes only.
  SF_INLINE int64_t slot_of(int64_t unit) {
    constexpr int64_t N = 16 / sizeof(A), near = 16 / bytes;  // slots that stay together
    const int64_t lane = unit % W, i = lane % N;
    return unit - lane + i / near * kCount + lane / N * near + i % near;
  }
  // A slot's number as `collect` wants it: in steps of 8 bytes.
  SF_INLINE uint16_t word(int64_t slot) { return static_cast<uint16_t>(slot * (bytes / 8)); }

  SF_INLINE Vec<A> collect(const A* slots, const uint16_t* at) {
    const auto slot = [&](int i) {
      return reinterpret_cast<const float*>(reinterpret_cast<const char*>(slots) +
                                            int64_t{at[i]} * 8);
    };
#if defined(__AVX512F__)
    if constexpr (bytes == 8) {
      const auto four = [&](int i) {
        return _mm256_insertf128_ps(_mm256_castps128_ps256(two_words(slot(i), slot(i + 1))),
                                    two_words(slot(i + 2), slot(i + 3)), 1);
      };
      return (Vec<A>)_mm512_insertf32x8(_mm512_castps256_ps512(four(0)), four(4), 1);
    }
    __m512 found = _mm512_castps128_ps512(_mm_loadu_ps(slot(0)));
    found = _mm512_insertf32x4(found, _mm_loadu_ps(slot(1)), 1);
    found = _mm512_insertf32x4(found, _mm_loadu_ps(slot(2)), 2);
    return (Vec<A>)_mm512_insertf32x4(found, _mm_loadu_ps(slot(3)), 3);
#elif defined(__AVX2__)
    const __m256 found = _mm256_castps128_ps256(_mm_loadu_ps(slot(0)));
    return (Vec<A>)_mm256_insertf128_ps(found, _mm_loadu_ps(slot(1)), 1);
#else
    Vec<A> found;
    __builtin_memcpy(&found, slot(0), 16);
    return found;
#endif
  }

  // kRows vectors of W units, a row each, become as many vectors of slots.
  SF_INLINE void turn(Vec<A> (&v)[kRows]) {
    if constexpr (kRows == 2) {
      const Vec<A> a = v[0], b = v[1];
      v[0] = unpack<A, 1, false>(a, b, Lane());
      v[1] = unpack<A, 1, true>(a, b, Lane());
    } else if constexpr (kRows == 4) {
      const Vec<A> a = unpack<A, 1, false>(v[0], v[1], Lane());
      const Vec<A> b = unpack<A, 1, true>(v[0], v[1], Lane());
      const Vec<A> c = unpack<A, 1, false>(v[2], v[3], Lane());
      const Vec<A> d = unpack<A, 1, true>(v[2], v[3], Lane());
      v[0] = unpack<A, 2, false>(a, c, Lane());
      v[1] = unpack<A, 2, true>(a, c, Lane());
      v[2] = unpack<A, 2, false>(b, d, Lane());
      v[3] = unpack<A, 2, true>(b, d, Lane());
    }
  }

  SF_INLINE void turn_back(Vec<A> (&v)[kRows]) {
    if constexpr (bytes == 8 && kRows == 2) {
      const Vec<A> a = v[0], b = v[1];
      v[0] = repack<A, false>(a, b, Lane());
      v[1] = repack<A, true>(a, b, Lane());
    } else {
      turn(v);
    }
  }
};

}  // namespace SYMFAST_ISA
}  // namespace symfast
