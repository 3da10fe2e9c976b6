// SPDX-License-Identifier: Apache-2.0
// Dense frames on columns of U that are adjacent in memory, the units a stride apart; A^T as in
// dense_simd.h.
#pragma once
#include "dense_simd.h"

namespace symfast {
namespace SYMFAST_ISA {

constexpr int kUnitBlock = 8;  // units that share one load of the coefficients

// A^T of K coefficients and a block of units, side by side: rows of A^T may lie a power of two
// apart, where the first-level cache would keep few of them.
template <int K, typename A>
struct FrameBlock {
  A values[kUnitBlock][K ? K : 1];

  SF_INLINE FrameBlock of(const A* at, int64_t next, int64_t units) {
    FrameBlock block{};
    for (int64_t j = 0; j < units; ++j) {
      for (int q = 0; q < K; ++q) block.values[j][q] = at[q * next + j];
    }
    return block;
  }
};

template <bool partial, typename T>
SF_INLINE Vec<Acc<T>> load_lanes(const T* p, int64_t some) {
  if constexpr (partial) return load_some(p, some);
  return load(p);
}
template <bool partial, typename T>
SF_INLINE void store_lanes(T* p, Vec<Acc<T>> v, int64_t some) {
  if constexpr (partial) return store_some(p, v, some);
  store(p, v);
}

// One vector of columns, `some` < lanes: partial. c[q] += sum_j a[j][q] u[j].
template <int K, bool partial, typename T>
SF_INLINE void column_dots(const T* u, int64_t unit, const FrameBlock<K, Acc<T>>& a, int64_t units,
                           Acc<T>* c, int64_t ldc, int64_t some) {
  Vec<Acc<T>> sums[K];
  for (int q = 0; q < K; ++q) sums[q] = load(c + q * ldc);
  for (int64_t j = 0; j < units; ++j) {
    const Vec<Acc<T>> v = load_lanes<partial>(u + j * unit, some);
    for (int q = 0; q < K; ++q) sums[q] += v * a.values[j][q];
  }
  for (int q = 0; q < K; ++q) store(c + q * ldc, sums[q]);
}

// u[j] += sum_q a[j][q] delta[q].
template <int K, bool partial, typename T>
SF_INLINE void column_add(T* u, int64_t unit, const FrameBlock<K, Acc<T>>& a, int64_t units,
                          const Acc<T>* delta, int64_t ldc, int64_t some) {
  Vec<Acc<T>> d[K];
  for (int q = 0; q < K; ++q) d[q] = load(delta + q * ldc);
  for (int64_t j = 0; j < units; ++j) {
    Vec<Acc<T>> v = load_lanes<partial>(u + j * unit, some);
    for (int q = 0; q < K; ++q) v += d[q] * a.values[j][q];
    store_lanes<partial>(u + j * unit, v, some);
  }
}

// Calls tile<partial>(first column, columns of a partial vector) over `width` columns.
template <typename A, typename Tile>
SF_INLINE void each_column_vector(int64_t width, const Tile& tile) {
  constexpr int W = kLanes<A>;
  int64_t t = 0;
  for (; t + W <= width; t += W) tile.template operator()<false>(t, 0);
  if (t < width) tile.template operator()<true>(t, width - t);
}

// Columns kernel on `width` columns: c (k, ldc) += A^T U, along memory.
template <typename T>
void columns_dots_add(const T* u, int64_t unit, const Acc<T>* at, int64_t next, int64_t units,
                      int64_t k, int64_t width, Acc<T>* c, int64_t ldc) {
  using A = Acc<T>;
  for (int64_t j = 0; j < units; j += kUnitBlock) {
    const int64_t count = units - j < kUnitBlock ? units - j : kUnitBlock;
    each_coefficient_block(k, [&]<int K>(int64_t q) {
      const auto block = FrameBlock<K, A>::of(at + q * next + j, next, count);
      each_column_vector<A>(width, [&]<bool partial>(int64_t t, int64_t some) {
        column_dots<K, partial>(u + j * unit + t, unit, block, count, c + q * ldc + t, ldc, some);
      });
    });
  }
}

// c (k, ldc) = A^T U.
template <typename T>
void columns_dots(const T* u, int64_t unit, const Acc<T>* at, int64_t next, int64_t units,
                  int64_t k, int64_t width, Acc<T>* c, int64_t ldc) {
  for (int64_t i = 0; i < k * ldc; ++i) c[i] = 0;
  columns_dots_add(u, unit, at, next, units, k, width, c, ldc);
}

// The same for more coefficients than fit the registers, all before the one rounding of a half
// type.
template <bool partial, typename T>
SF_INLINE void column_add_all(T* u, int64_t unit, const Acc<T>* at, int64_t next, int64_t units,
                              int64_t k, const Acc<T>* delta, int64_t ldc, int64_t some) {
  for (int64_t j = 0; j < units; ++j) {
    Vec<Acc<T>> v = load_lanes<partial>(u + j * unit, some);
    for (int64_t q = 0; q < k; ++q) v += load(delta + q * ldc) * at[q * next + j];
    store_lanes<partial>(u + j * unit, v, some);
  }
}

// Columns kernel on `width` columns: U += A delta. Backwards: the last units are still near.
template <int K, typename T>
void columns_add(T* u, int64_t unit, const Acc<T>* at, int64_t next, int64_t units, int64_t k,
                 int64_t width, const Acc<T>* delta, int64_t ldc) {
  using A = Acc<T>;
  for (int64_t j = (units - 1) / kUnitBlock * kUnitBlock; j >= 0; j -= kUnitBlock) {
    const int64_t count = units - j < kUnitBlock ? units - j : kUnitBlock;
    const auto block = FrameBlock<K, A>::of(at + j, next, count);
    each_column_vector<A>(width, [&]<bool partial>(int64_t t, int64_t some) {
      T* first = u + j * unit + t;
      if constexpr (K == 0) {
        column_add_all<partial>(first, unit, at + j, next, count, k, delta + t, ldc, some);
      } else {
        column_add<K, partial>(first, unit, block, count, delta + t, ldc, some);
      }
    });
  }
}

template <typename T>
void columns_add(T* u, int64_t unit, const Acc<T>* at, int64_t next, int64_t units, int64_t k,
                 int64_t width, const Acc<T>* delta, int64_t ldc) {
  switch (k) {
    case 1:
      return columns_add<1>(u, unit, at, next, units, k, width, delta, ldc);
    case 2:
      return columns_add<2>(u, unit, at, next, units, k, width, delta, ldc);
    case 4:
      return columns_add<4>(u, unit, at, next, units, k, width, delta, ldc);
    case 8:
      return columns_add<8>(u, unit, at, next, units, k, width, delta, ldc);
    default:
      return columns_add<0>(u, unit, at, next, units, k, width, delta, ldc);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
