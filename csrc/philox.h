// SPDX-License-Identifier: Apache-2.0
// Random numbers from a counter: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
// 1, 2, 3", SC 2011) and normal numbers made of its words, defined operation by operation. Every
// product that feeds a sum is written as one fused multiply-add, so no compiler has a choice: CPU
// lanes of any instruction set and CUDA threads give the same bits.
//
// W is a 64-bit lane (uint64_t or a vector of them) whose low half is a word; the high half is
// ignored. F is float or a vector of float. Vectors: philox_simd.h.
#pragma once
#include <cstdint>

#include "plan.h"

#if defined(__CUDA_ARCH__)
#define SF_UNROLL_ROUNDS _Pragma("unroll")
#elif defined(__CUDACC__)
#define SF_UNROLL_ROUNDS
#else
#define SF_UNROLL_ROUNDS _Pragma("GCC unroll 10")
#endif

namespace symfast {

// What a number is for: counters of different purposes never meet.
enum RandomPurpose : uint32_t { kAnchor = 1, kGradientNoise = 2, kBatchIndex = 3, kLabelNoise = 4 };

template <typename W>
struct PhiloxMath {
  SF_HOST_DEVICE static W product(W a, uint32_t m) { return (a & 0xffffffffu) * m; }
  // The high half of a product as a word.
  SF_HOST_DEVICE static W high(W product) { return product >> 32; }
};

template <typename W>
struct PhiloxWords {
  W word[4];
};

// Rounds on four words; the high halves of the result's lanes are rubbish. Ten are the usual
// number, seven the fewest that pass every test of the paper.
template <int rounds = 10, typename W>
SF_HOST_DEVICE PhiloxWords<W> philox4x32(PhiloxWords<W> counter, uint32_t key0, uint32_t key1) {
  W x0 = counter.word[0], x1 = counter.word[1], x2 = counter.word[2], x3 = counter.word[3];
  SF_UNROLL_ROUNDS
  for (int round = 0; round < rounds; ++round) {
    const W p0 = PhiloxMath<W>::product(x0, 0xD2511F53u);
    const W p1 = PhiloxMath<W>::product(x2, 0xCD9E8D57u);
    x0 = PhiloxMath<W>::high(p1) ^ x1 ^ uint64_t{key0};
    x2 = PhiloxMath<W>::high(p0) ^ x3 ^ uint64_t{key1};
    x1 = p1;
    x3 = p0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{x0, x1, x2, x3}};
}

// One sequence of blocks of four words: a seed (the key), a purpose, a parameter and a step.
struct RandomStream {
  uint64_t seed;
  uint32_t purpose, parameter, step;
};

// Block numbers below 2^56. `block` is a 64-bit lane with the whole number in it.
template <int rounds = 10, typename W>
SF_HOST_DEVICE PhiloxWords<W> random_block(const RandomStream& stream, W block) {
  constexpr W zero{};
  const PhiloxWords<W> counter = {{block, zero + uint64_t{stream.step},
                                   zero + uint64_t{stream.parameter},
                                   (block >> 32) | (uint64_t{stream.purpose} << 24)}};
  return philox4x32<rounds>(counter, static_cast<uint32_t>(stream.seed),
                            static_cast<uint32_t>(stream.seed >> 32));
}

// In [0, 1), from the upper 24 bits.
SF_HOST_DEVICE float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// ---- normal numbers: the method of Box and Muller ----
template <typename F>
struct NormalMath;

template <>
struct NormalMath<float> {
  using Int = int32_t;
  using Word = uint32_t;
  SF_HOST_DEVICE static float to_float(Int i) { return static_cast<float>(i); }
#if defined(__CUDA_ARCH__)
  __device__ static Int bits(float x) { return __float_as_int(x); }
  __device__ static float number(Int i) { return __int_as_float(i); }
  __device__ static float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  __device__ static float square_root(float x) { return __fsqrt_rn(x); }
#else
  SF_HOST_DEVICE static Int bits(float x) { return __builtin_bit_cast(Int, x); }
  SF_HOST_DEVICE static float number(Int i) { return __builtin_bit_cast(float, i); }
  SF_HOST_DEVICE static float multiply_add(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
  }
  SF_HOST_DEVICE static float square_root(float x) { return __builtin_sqrtf(x); }
#endif
};

template <typename F>
struct NormalPair {
  F first, second;
};

// sqrt(-2 log(n / 2^width)) for odd n < 2^width <= 2^24; relative error of the logarithm 2e-7.
template <typename F, typename Int>
SF_HOST_DEVICE F normal_radius(Int n, int32_t width) {
  using M = NormalMath<F>;
  const Int bits = M::bits(M::to_float(n));
  const Int exponent = (bits - 0x3f3504f3) >> 23;  // mantissa in [sqrt(1/2), sqrt(2))
  const F f = M::number(bits - (exponent << 23)) - 1.0f;
  constexpr F zero{};
  F p = zero - 0.1010688915848732f;  // minimax for log(1 + f) / f
  p = M::multiply_add(p, f, zero + 0.1622258424758911f);
  p = M::multiply_add(p, f, zero - 0.1725083291530609f);
  p = M::multiply_add(p, f, zero + 0.19900165498256683f);
  p = M::multiply_add(p, f, zero - 0.24969908595085144f);
  p = M::multiply_add(p, f, zero + 0.33335059881210327f);
  p = M::multiply_add(p, f, zero - 0.5000036358833313f);
  p = M::multiply_add(p, f, zero + 0.9999999403953552f);
  // -2 log u, by a power of two exact
  const F log_u = M::multiply_add(M::to_float(exponent - width), zero + 0.6931471805599453f, p * f);
  return M::square_root(log_u * -2.0f);
}

// `turn`: bit 31 the sign, bit 30 which comes first; `k` the angle within an eighth turn to either
// side, odd, times pi/4 / 2^bits.
template <typename F, typename Int>
SF_HOST_DEVICE NormalPair<F> normal_pair(F radius, Int turn, Int k, float unit) {
  using M = NormalMath<F>;
  const F x = M::to_float(k) * unit;
  const F z = x * x;
  constexpr F zero{};
  F s = zero - 0.00019501821952871978f, c = zero - 0.0013579403748735785f;
  s = M::multiply_add(s, z, zero + 0.008332016877830029f);
  c = M::multiply_add(c, z, zero + 0.04165441915392876f);
  s = M::multiply_add(s, z, zero - 0.16666650772094727f);
  c = M::multiply_add(c, z, zero - 0.49999842047691345f);
  s = M::multiply_add(s, z, zero + 1.0f) * x;
  c = M::multiply_add(c, z, zero + 0.9999999403953552f);
  const F r = M::number(M::bits(radius) | (turn & static_cast<int32_t>(0x80000000u)));
  const auto swapped = (turn & 0x40000000) != 0;
  return {r * (swapped ? s : c), r * (swapped ? c : s)};
}

constexpr float kEighthTurn = 0.7853981633974483f;

// Two normal numbers from two words: 23 bits for the radius (up to 5.8), 25 for the angle.
template <typename F, typename Word>
SF_HOST_DEVICE NormalPair<F> normal_pair(Word a, Word b) {
  using Int = typename NormalMath<F>::Int;
  const F radius = normal_radius<F>((Int)((a >> 9) * 2u + 1u), 24);
  return normal_pair<F>(radius, (Int)b, ((Int)(b << 2) >> 9) * 2 + 1, kEighthTurn * 0x1p-23f);
}

}  // namespace symfast
