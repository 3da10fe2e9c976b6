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

// Vectors of columns whose K sums each fit the registers: they share one load of the frame.
template <int K>
constexpr int kColumnsAtOnce = K <= 2   ? 4
                               : K <= 4 ? (kVectorBytes < 64 ? 2 : 4)
                                        : (kVectorBytes < 64 ? 1 : 2);

// A frame's number in all lanes of a register. Less zero, not plus: the same bits, also of -0.
template <typename A>
SF_INLINE Vec<A> spread(A number) {
  Vec<A> v = number - Vec<A>{};
  keep(v);
  return v;
}

// C vectors of columns; `some` < lanes of one: partial. c[q] += sum_j a[j][q] u[j].
template <int K, int C, bool partial, typename T>
SF_INLINE void column_dots(const T* u, int64_t unit, const FrameBlock<K, Acc<T>>& a, int64_t units,
                           Acc<T>* c, int64_t ldc, int64_t some) {
  constexpr int W = kLanes<Acc<T>>;
  Vec<Acc<T>> sums[K][C];
#pragma GCC unroll 16
  for (int i = 0; i < K * C; ++i) sums[i / C][i % C] = load(c + i / C * ldc + i % C * W);
  for (int64_t j = 0; j < units; ++j) {
    Vec<Acc<T>> v[C];
    for (int i = 0; i < C; ++i) v[i] = load_lanes<partial>(u + j * unit + i * W, some);
#pragma GCC unroll 8
    for (int q = 0; q < K; ++q) {
      const Vec<Acc<T>> x = spread(a.values[j][q]);
      for (int i = 0; i < C; ++i) sums[q][i] += v[i] * x;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < K * C; ++i) store(c + i / C * ldc + i % C * W, sums[i / C][i % C]);
}

// u[j] += sum_q a[j][q] delta[q].
template <int K, int C, bool partial, typename T>
SF_INLINE void column_add(T* u, int64_t unit, const FrameBlock<K, Acc<T>>& a, int64_t units,
                          const Acc<T>* delta, int64_t ldc, int64_t some) {
  constexpr int W = kLanes<Acc<T>>;
  Vec<Acc<T>> d[K][C];
#pragma GCC unroll 16
  for (int i = 0; i < K * C; ++i) d[i / C][i % C] = load(delta + i / C * ldc + i % C * W);
  for (int64_t j = 0; j < units; ++j) {
    Vec<Acc<T>> v[C];
    for (int i = 0; i < C; ++i) v[i] = load_lanes<partial>(u + j * unit + i * W, some);
#pragma GCC unroll 8
    for (int q = 0; q < K; ++q) {
      const Vec<Acc<T>> x = spread(a.values[j][q]);
      for (int i = 0; i < C; ++i) v[i] += d[q][i] * x;
    }
    for (int i = 0; i < C; ++i) store_lanes<partial>(u + j * unit + i * W, v[i], some);
  }
}

// Calls tile<vectors, partial>(first column, columns of a partial vector) over `width` columns, C
// vectors at a time.
template <typename A, int C, typename Tile>
SF_INLINE void each_column_vector(int64_t width, const Tile& tile) {
  constexpr int W = kLanes<A>;
  int64_t t = 0;
  for (; t + C * W <= width; t += C * W) tile.template operator()<C, false>(t, 0);
  for (; t + W <= width; t += W) tile.template operator()<1, false>(t, 0);
  if (t < width) tile.template operator()<1, true>(t, width - t);
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
      each_column_vector<A, kColumnsAtOnce<K>>(
          width, [&]<int C, bool partial>(int64_t t, int64_t some) {
            column_dots<K, C, partial>(u + j * unit + t, unit, block, count, c + q * ldc + t, ldc,
                                       some);
          });
    });
  }
}

// c (k, ldc) = A^T U, every `segment` units by themselves in what follows c, then together.
template <typename T>
void columns_dots(const T* u, int64_t unit, const Acc<T>* at, int64_t next, int64_t units,
                  int64_t k, int64_t width, Acc<T>* c, int64_t ldc, int64_t segment) {
  const int64_t size = k * ldc;
  for (int64_t i = 0; i < size; ++i) c[i] = 0;
  columns_dots_add(u, unit, at, next, units < segment ? units : segment, k, width, c, ldc);
  for (int64_t j = segment; j < units; j += segment) {
    Acc<T>* own = c + size;
    for (int64_t i = 0; i < size; ++i) own[i] = 0;
    const int64_t count = units - j < segment ? units - j : segment;
    columns_dots_add(u + j * unit, unit, at + j, next, count, k, width, own, ldc);
    for (int64_t i = 0; i < size; ++i) c[i] += own[i];
  }
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

// A block of units and `width` columns: U += A delta.
template <int K, typename T>
SF_INLINE void block_add(T* u, int64_t unit, const Acc<T>* at, int64_t next, int64_t units,
                         int64_t k, int64_t width, const Acc<T>* delta, int64_t ldc) {
  using A = Acc<T>;
  const auto block = FrameBlock<K, A>::of(at, next, units);
  constexpr int most = K ? kColumnsAtOnce<K> : 1;
  each_column_vector<A, most>(width, [&]<int C, bool partial>(int64_t t, int64_t some) {
    if constexpr (K == 0) {
      column_add_all<partial>(u + t, unit, at, next, units, k, delta + t, ldc, some);
    } else {
      column_add<K, C, partial>(u + t, unit, block, units, delta + t, ldc, some);
    }
  });
}

// Calls step<K>(k), K = 0 for a number of coefficients that is known at run time only.
template <typename Step>
SF_INLINE void with_coefficients(int64_t k, const Step& step) {
  switch (k) {
    case 1:
      return step.template operator()<1>();
    case 2:
      return step.template operator()<2>();
    case 4:
      return step.template operator()<4>();
    case 8:
      return step.template operator()<8>();
    default:
      return step.template operator()<0>();
  }
}

// Columns kernel on `width` columns: U += A delta. Backwards: the last units are still near.
template <typename T>
void columns_add(T* u, int64_t unit, const Acc<T>* at, int64_t next, int64_t units, int64_t k,
                 int64_t width, const Acc<T>* delta, int64_t ldc) {
  with_coefficients(k, [&]<int K>() {
    for (int64_t j = (units - 1) / kUnitBlock * kUnitBlock; j >= 0; j -= kUnitBlock) {
      const int64_t count = units - j < kUnitBlock ? units - j : kUnitBlock;
      block_add<K>(u + j * unit, unit, at + j, next, count, k, width, delta, ldc);
    }
  });
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
