// SPDX-License-Identifier: Apache-2.0
// Loops over registers, for *_simd.cpp.
#pragma once
#include <utility>

#include "simd.h"

// Behind the parameters of a lambda.
#define SF_LAMBDA __attribute__((always_inline))

namespace symfast {
namespace SYMFAST_ISA {

// A number that is known while compiling, as an argument.
template <int value>
struct Index {
  __attribute__((always_inline)) constexpr operator int() const { return value; }
};

// Calls body(Index<0>) .. body(Index<N - 1>), or with all pairs of indices. Arrays of vectors that
// are indexed this way are registers; those of an unrolled loop GCC 12 also stores at every turn,
// because it unrolls after it has decided what lies in memory.
template <typename Body, int... i>
SF_INLINE void call_each(const Body& body, std::integer_sequence<int, i...>) {
  (body(Index<i>{}), ...);
}
template <int N, typename Body>
SF_INLINE void each(const Body& body) {
  call_each(body, std::make_integer_sequence<int, N>{});
}
template <int N, int M, typename Body>
SF_INLINE void each(const Body& body) {
  each<N>([&](auto i) SF_LAMBDA { each<M>([&](auto j) SF_LAMBDA { body(i, j); }); });
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
