// SPDX-License-Identifier: Apache-2.0
// N vectors side by side, for formulas that are one long chain of dependent operations: each
// operation is done on all of them before the next, so that the chains overlap in the processor's
// window and leave room in it for loads on their way.
#pragma once
#include <type_traits>

#include "simd.h"

namespace symfast {
namespace SYMFAST_ISA {

template <typename V, int N>
struct Several {
  V v[N];

  template <typename U>
  inline __attribute__((always_inline)) explicit operator Several<U, N>() const {
    return each([](V x) { return (U)x; });
  }

  // The results of f on every vector, and on every pair of them.
  template <typename F>
  inline __attribute__((always_inline)) auto each(const F& f) const {
    Several<decltype(f(v[0])), N> found;
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) found.v[i] = f(v[i]);
    return found;
  }
  template <typename F>
  inline __attribute__((always_inline)) Several with(const Several& other, const F& f) const {
    Several found;
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) found.v[i] = f(v[i], other.v[i]);
    return found;
  }
};

#define SF_SEVERAL(op)                                                                  \
  template <typename V, int N>                                                          \
  SF_INLINE Several<V, N> operator op(const Several<V, N>& a, const Several<V, N>& b) { \
    return a.with(b, [](V x, V y) { return x op y; });                                  \
  }                                                                                     \
  template <typename V, int N, typename S>                                              \
    requires std::is_arithmetic_v<S>                                                    \
  SF_INLINE Several<V, N> operator op(const Several<V, N>& a, S s) {                    \
    return a.each([s](V x) { return x op s; });                                         \
  }
SF_SEVERAL(+)
SF_SEVERAL(-)
SF_SEVERAL(*)
SF_SEVERAL(^)
SF_SEVERAL(|)
SF_SEVERAL(&)
SF_SEVERAL(<<)
SF_SEVERAL(>>)
#undef SF_SEVERAL

}  // namespace SYMFAST_ISA
}  // namespace symfast
