// SPDX-License-Identifier: Apache-2.0
// Elementary functions of the replica sweep, written once for numbers and for vectors of lanes, so
// that the CPU lanes and the CUDA threads compute alike. V is a number or a vector, A its number.
//
//   tanh_of    float: x P(x^2) / Q(x^2), at most 6 ulp (4e-7 relative); double: by a table, 5 ulp
//              (6e-16 relative)
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
  SYMFAST_SWEEP_INLINE static double entry(std::int64_t bits, const double (&table)[8]) {
    return table[bits & 7];
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

// Of a number with k + 8 e in its last bits: 2^(k >> 3) (1 + (k & 7) / 8) 2^e / 2^1023, and the
// table's entry k & 7.
template <typename V>
SYMFAST_SWEEP_INLINE V power_of_eighths(V shifted) {
  using A = typename Lanes<V>::Number;
  return __builtin_bit_cast(V, __builtin_bit_cast(typename Lanes<V>::Integer, shifted)
                                   << (Exponential<A>::mantissa - 3));
}
template <typename V>
SYMFAST_SWEEP_INLINE V entry_of_bits(V shifted, const typename Lanes<V>::Number (&table)[8]) {
  return Lanes<V>::entry(__builtin_bit_cast(typename Lanes<V>::Integer, shifted), table);
}

template <typename V>
SYMFAST_SWEEP_INLINE V magnitude(V x) {
  using A = typename Lanes<V>::Number;
  using I = typename Lanes<V>::Integer;
  const I mask = __builtin_bit_cast(I, fill<V>(A(-0.0)));
  return __builtin_bit_cast(V, __builtin_bit_cast(I, x) & ~mask);
}

// A size, not negative, with the sign of another number.
template <typename V>
SYMFAST_SWEEP_INLINE V with_sign(V size, V sign) {
  using A = typename Lanes<V>::Number;
  using I = typename Lanes<V>::Integer;
  const I mask = __builtin_bit_cast(I, fill<V>(A(-0.0)));
  return __builtin_bit_cast(V, __builtin_bit_cast(I, size) | (__builtin_bit_cast(I, sign) & mask));
}

// exp(n ln 2 + r) = 2^n (1 + r + r^2 tail(r)).
template <typename V>
SYMFAST_SWEEP_INLINE V exp_of(V x) {
  using A = typename Lanes<V>::Number;
  using E = Exponential<A>;
  using Math = Arithmetic<V>;
  const V inside = clamp(x, E::least, A(0));
  const V shifted = Math::multiply_add(inside, fill<V>(A(0x1.71547652b82fep0)), fill<V>(E::magic));
  const V n = shifted - fill<V>(E::magic);
  const V r =
      Math::multiply_add(n, fill<V>(-E::low), Math::multiply_add(n, fill<V>(-E::high), inside));
  const V power = power_of_bits(shifted);
  const V value = Math::multiply_add(power, Math::multiply_add(r * r, exp_tail(r), r), power);
  return x < fill<V>(E::least) ? V{} : value;
}

// Rational minimax fit of relative error 0.4 2^-24 on [-9.02, 9.02], beyond which tanh rounds to 1
// and the quotient is 1 or more in size.
template <typename V>
SYMFAST_SWEEP_INLINE V tanh_rational(V x) {
  constexpr float top[] = {0x1p0f, 0x1.120442p-3f, 0x1.c9f85ap-9f, 0x1.595564p-16f,
                           0x1.c9a3d4p-27f};
  constexpr float bottom[] = {0x1p0f, 0x1.de576ap-2f, 0x1.a7df26p-6f, 0x1.5841dcp-12f,
                              0x1.a0b868p-21f};
  const V square = Lanes<V>::smaller(fill<V>(9.02f * 9.02f), x * x);
  return clamp(x * polynomial(square, top) / polynomial(square, bottom), -1.0f, 1.0f);
}

// |x| = k ln 2 / 16 + u. With t = tanh u and A = (2^(k/8) - 1) / 2, s = A + A t: tanh|x| is
// (s + t) / (s + 1). Here t, odd and small, takes few terms, and A is exact to its last digit:
// 2^(k/8) / 2 = power (1 + bend), where power is on the line between two powers of two.
// static, so that every instruction set has a table of its own: no symbol is shared between them.
template <typename V>
static SYMFAST_SWEEP_INLINE V tanh_by_table(V x) {
  using A = typename Lanes<V>::Number;
  using Math = Arithmetic<V>;
  static constexpr A bends[8] = {0x0p0,
                                 -0x1.f6547e426c842p-6,
                                 -0x1.8e69894a0e449p-5,
                                 -0x1.d1aa6cc87cde7p-5,
                                 -0x1.d4822201059a0p-5,
                                 -0x1.a15bfd5561685p-5,
                                 -0x1.3f4999e1573a0p-5,
                                 -0x1.66315bc507689p-6};
  constexpr A odd[] = {-0x1.555555555382ep-2, 0x1.11111058f0e8cp-3, -0x1.b9f24ecefb91ap-5};
  constexpr A magic = 0x1.8p52 + 8 * 1022;  // last bits of a sum with it: k and an exponent
  const V size = Lanes<V>::smaller(fill<V>(A(20)), magnitude(x));
  const V shifted = Math::multiply_add(size, fill<V>(A(0x1.71547652b82fep4)), fill<V>(magic));
  const V u = Math::multiply_add(shifted - fill<V>(magic), fill<V>(A(-0x1.62e42fefa39efp-5)), size);
  const V power = power_of_eighths(shifted);
  const V a = Math::multiply_add(power, entry_of_bits(shifted, bends), power - fill<V>(A(0.5)));
  const V square = u * u;
  const V t = Math::multiply_add(u * square, polynomial(square, odd), u);
  const V s = Math::multiply_add(a, t, a);
  const V value = (s + t) / (s + fill<V>(A(1)));
  return with_sign(Lanes<V>::smaller(fill<V>(A(1)), value), x);
}

template <typename V>
SYMFAST_SWEEP_INLINE V tanh_of(V x) {
  if constexpr (sizeof(typename Lanes<V>::Number) == 4) {
    return tanh_rational(x);
  } else {
    return tanh_by_table(x);
  }
}

}  // namespace symfast
