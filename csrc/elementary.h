// SPDX-License-Identifier: Apache-2.0
// Elementary functions of the replica sweep, written once for numbers and for vectors of lanes, so
// that the CPU lanes and the CUDA threads compute alike. V is a number or a vector, A its number.
//
//   tanh_of    float: x P(x^2) / Q(x^2), at most 6 ulp (4e-7 relative); double: by exp, 2 ulp
//   exp_of     x <= 0, at most 2 ulp down to the underflow, then 0
#pragma once

#include <cstdint>

#include "arithmetic.h"

#if defined(__CUDA_ARCH__)
#define SYMFAST_ELEMENTARY_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)
#define SYMFAST_ELEMENTARY_UNROLL
#else
#define SYMFAST_ELEMENTARY_UNROLL _Pragma("GCC unroll 16")
#endif

namespace symfast {

// Integers of the size of A, as many as V has numbers; for vectors in elementary_simd.h.
template <typename V>
struct Lanes;
// a > b ? a : b and a < b ? a : b, so b where one is NaN.
template <typename A>
struct NumberOrder {
  SYMFAST_SWEEP_INLINE static A larger(A a, A b) { return a > b ? a : b; }
  SYMFAST_SWEEP_INLINE static A smaller(A a, A b) { return a < b ? a : b; }
};
template <>
struct Lanes<float> : NumberOrder<float> {
  using Number = float;
  using Integer = std::int32_t;
  SYMFAST_SWEEP_INLINE static float root(float x) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#else
    return __builtin_sqrtf(x);
#endif
  }
};
template <>
struct Lanes<double> : NumberOrder<double> {
  using Number = double;
  using Integer = std::int64_t;
  SYMFAST_SWEEP_INLINE static double root(double x) {
#if defined(__CUDA_ARCH__)
    return __dsqrt_rn(x);
#else
    return __builtin_sqrt(x);
#endif
  }
};

template <typename V>
SYMFAST_SWEEP_INLINE V fill(typename Lanes<V>::Number x) {
  return x - V{};
}

template <typename V>
SYMFAST_SWEEP_INLINE V clamp(V x, typename Lanes<V>::Number low, typename Lanes<V>::Number high) {
  const V above = Lanes<V>::larger(fill<V>(low), x);  // NaN stays NaN
  return Lanes<V>::smaller(fill<V>(high), above);
}

// coefficients[0] + coefficients[1] x + ...
template <typename V, int N>
SYMFAST_SWEEP_INLINE V polynomial(V x, const typename Lanes<V>::Number (&coefficients)[N]) {
  V sum = fill<V>(coefficients[N - 1]);
  SYMFAST_ELEMENTARY_UNROLL
  for (int i = N - 2; i >= 0; --i)
    sum = Arithmetic<V>::multiply_add(sum, x, fill<V>(coefficients[i]));
  return sum;
}

// What exp_of needs of a type: 1.5 2^mantissa rounds by addition; ln 2 in two pieces.
template <typename A>
struct Exponential;
template <>
struct Exponential<float> {
  static constexpr float magic = 0x1.8p23f, high = 0x1.62e4p-1f, low = 0x1.7f7d1cp-20f;
  static constexpr float least = -87.0f;
  static constexpr int mantissa = 23;
};
template <>
struct Exponential<double> {
  static constexpr double magic = 0x1.8p52, high = 0x1.62e42fefap-1, low = 0x1.cf79abc9e3b3ap-40;
  static constexpr double least = -708.0;
  static constexpr int mantissa = 52;
};

// exp(r) - 1 - r over r^2 for |r| <= ln 2 / 2, its Taylor series.
template <typename V>
SYMFAST_SWEEP_INLINE V exp_tail(V r) {
  using A = typename Lanes<V>::Number;
  if constexpr (sizeof(A) == 4) {
    constexpr A c[] = {A(1) / 2, A(1) / 6, A(1) / 24, A(1) / 120, A(1) / 720, A(1) / 5040};
    return polynomial(r, c);
  } else {
    constexpr A c[] = {A(1) / 2,       A(1) / 6,        A(1) / 24,        A(1) / 120,
                       A(1) / 720,     A(1) / 5040,     A(1) / 40320,     A(1) / 362880,
                       A(1) / 3628800, A(1) / 39916800, A(1) / 479001600, A(1) / 6227020800};
    return polynomial(r, c);
  }
}

// 2^n of n + magic.
template <typename V>
SYMFAST_SWEEP_INLINE V power_of_bits(V shifted) {
  using A = typename Lanes<V>::Number;
  using I = typename Lanes<V>::Integer;
  return __builtin_bit_cast(V, (__builtin_bit_cast(I, shifted) << Exponential<A>::mantissa) +
                                   __builtin_bit_cast(I, fill<V>(A(1))));
}

// A size, not negative, with the sign of another number.
template <typename V>
SYMFAST_SWEEP_INLINE V with_sign(V size, V sign) {
  using A = typename Lanes<V>::Number;
  using I = typename Lanes<V>::Integer;
  const I mask = __builtin_bit_cast(I, fill<V>(A(-0.0)));
  return __builtin_bit_cast(V, __builtin_bit_cast(I, size) | (__builtin_bit_cast(I, sign) & mask));
}

// exp(x) = power (1 + fraction), power a power of two, for least <= x <= 0.
template <typename V>
struct ExpParts {
  V power, fraction;
};
template <typename V>
SYMFAST_SWEEP_INLINE ExpParts<V> split_exp(V x) {
  using A = typename Lanes<V>::Number;
  using E = Exponential<A>;
  using Math = Arithmetic<V>;
  const V shifted = Math::multiply_add(x, fill<V>(A(0x1.71547652b82fep0)), fill<V>(E::magic));
  const V n = shifted - fill<V>(E::magic);
  const V r = Math::multiply_add(n, fill<V>(-E::low), Math::multiply_add(n, fill<V>(-E::high), x));
  return {power_of_bits(shifted), Math::multiply_add(r * r, exp_tail(r), r)};
}

template <typename V>
SYMFAST_SWEEP_INLINE V exp_of(V x) {
  using A = typename Lanes<V>::Number;
  constexpr A least = Exponential<A>::least;
  const ExpParts<V> s = split_exp(clamp(x, least, A(0)));
  const V value = Arithmetic<V>::multiply_add(s.power, s.fraction, s.power);
  return x < fill<V>(least) ? V{} : value;
}

// tanh as a quotient, so that several can share one division.
template <typename V>
struct Quotient {
  V top, bottom;  // bottom within [1, 2^12]
};

// Rational minimax fit of relative error 0.4 2^-24 on [-9.02, 9.02], beyond which tanh rounds to 1.
template <typename V>
SYMFAST_SWEEP_INLINE Quotient<V> tanh_rational(V x) {
  constexpr float top[] = {0x1p0f, 0x1.120442p-3f, 0x1.c9f85ap-9f, 0x1.595564p-16f,
                           0x1.c9a3d4p-27f};
  constexpr float bottom[] = {0x1p0f, 0x1.de576ap-2f, 0x1.a7df26p-6f, 0x1.5841dcp-12f,
                              0x1.a0b868p-21f};
  const V inside = clamp(x, -9.02f, 9.02f);
  const V square = inside * inside;
  return {inside * polynomial(square, top), polynomial(square, bottom)};
}

// With e = exp(-2|x|) - 1: tanh|x| = -e / (2 + e).
template <typename V>
SYMFAST_SWEEP_INLINE Quotient<V> tanh_by_exp(V x) {
  using A = typename Lanes<V>::Number;
  const V size = Lanes<V>::smaller(fill<V>(A(20)), Lanes<V>::larger(-x, x));
  const ExpParts<V> s = split_exp(fill<V>(A(-2)) * size);
  const V e = Arithmetic<V>::multiply_add(s.power, s.fraction, s.power - fill<V>(A(1)));
  return {with_sign(fill<V>(A(0)) - e, x), fill<V>(A(2)) + e};
}

template <typename V>
SYMFAST_SWEEP_INLINE Quotient<V> tanh_quotient(V x) {
  if constexpr (sizeof(typename Lanes<V>::Number) == 4) {
    return tanh_rational(x);
  } else {
    return tanh_by_exp(x);
  }
}

// What rounding has put beyond 1.
template <typename V>
SYMFAST_SWEEP_INLINE V within_one(V x) {
  using A = typename Lanes<V>::Number;
  return clamp(x, A(-1), A(1));
}

template <typename V>
SYMFAST_SWEEP_INLINE V tanh_of(V x) {
  const Quotient<V> q = tanh_quotient(x);
  return within_one(q.top / q.bottom);
}

}  // namespace symfast
