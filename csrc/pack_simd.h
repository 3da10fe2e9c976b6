// SPDX-License-Identifier: Apache-2.0
// Several vectors as one value, for functions that are one long chain of dependent instructions: a
// processor overlaps the chains of a pack, but cannot look far enough ahead to find the next call.
#pragma once
#include "each_simd.h"
#include "elementary_simd.h"

namespace symfast {
namespace SYMFAST_ISA {

template <typename W, int N>
struct Pack {
  W v[N];
};

template <typename W, int N, typename F>
SF_INLINE Pack<W, N> pack_of(const F& element) {
  Pack<W, N> result;
  each<N>([&](auto i) SF_LAMBDA { result.v[i] = element(i); });
  return result;
}

template <typename W, int N>
SF_INLINE Pack<W, N> operator+(Pack<W, N> a, Pack<W, N> b) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return a.v[i] + b.v[i]; });
}
template <typename W, int N>
SF_INLINE Pack<W, N> operator-(Pack<W, N> a, Pack<W, N> b) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return a.v[i] - b.v[i]; });
}
template <typename W, int N>
SF_INLINE Pack<W, N> operator-(typename Lanes<W>::Number a, Pack<W, N> b) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return a - b.v[i]; });
}
template <typename W, int N>
SF_INLINE Pack<W, N> operator*(Pack<W, N> a, Pack<W, N> b) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return a.v[i] * b.v[i]; });
}
template <typename W, int N>
SF_INLINE Pack<W, N> operator/(Pack<W, N> a, Pack<W, N> b) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return a.v[i] / b.v[i]; });
}

// Overloads of what elementary.h does with the bits of a value.
template <typename W, int N>
SF_INLINE Pack<W, N> power_of_bits(Pack<W, N> shifted) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return symfast::power_of_bits(shifted.v[i]); });
}
template <typename W, int N>
SF_INLINE Pack<W, N> power_of_eighths(Pack<W, N> shifted) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return symfast::power_of_eighths(shifted.v[i]); });
}
template <typename W, int N, typename A>
SF_INLINE Pack<W, N> entry_of_bits(Pack<W, N> shifted, const A (&table)[8]) {
  return pack_of<W, N>([&](auto i)
                           SF_LAMBDA { return symfast::entry_of_bits(shifted.v[i], table); });
}
template <typename W, int N>
SF_INLINE Pack<W, N> magnitude(Pack<W, N> x) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return symfast::magnitude(x.v[i]); });
}
template <typename W, int N>
SF_INLINE Pack<W, N> with_sign(Pack<W, N> size, Pack<W, N> sign) {
  return pack_of<W, N>([&](auto i) SF_LAMBDA { return symfast::with_sign(size.v[i], sign.v[i]); });
}

}  // namespace SYMFAST_ISA

template <typename W, int N>
struct Lanes<SYMFAST_ISA::Pack<W, N>> {
  using V = SYMFAST_ISA::Pack<W, N>;
  using Number = typename Lanes<W>::Number;
  SYMFAST_SWEEP_INLINE static V larger(V a, V b) {
    return SYMFAST_ISA::pack_of<W, N>([&](auto i)
                                          SF_LAMBDA { return Lanes<W>::larger(a.v[i], b.v[i]); });
  }
  SYMFAST_SWEEP_INLINE static V smaller(V a, V b) {
    return SYMFAST_ISA::pack_of<W, N>([&](auto i)
                                          SF_LAMBDA { return Lanes<W>::smaller(a.v[i], b.v[i]); });
  }
};

template <typename W, int N>
struct Arithmetic<SYMFAST_ISA::Pack<W, N>> {
  using V = SYMFAST_ISA::Pack<W, N>;
  SYMFAST_SWEEP_INLINE static V multiply_add(V a, V b, V c) {
    return SYMFAST_ISA::pack_of<W, N>(
        [&](auto i) SF_LAMBDA { return Arithmetic<W>::multiply_add(a.v[i], b.v[i], c.v[i]); });
  }
};

namespace SYMFAST_ISA {

constexpr int kTanhPack = 4;

// tanh of a pack in place.
template <typename T>
SF_INLINE void tanh_of_pack(T* values) {
  const auto result = tanh_of(
      pack_of<Vec<T>, kTanhPack>([&](auto i) SF_LAMBDA { return load(values + i * kLanes<T>); }));
  each<kTanhPack>([&](auto i) SF_LAMBDA { store(values + i * kLanes<T>, result.v[i]); });
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
