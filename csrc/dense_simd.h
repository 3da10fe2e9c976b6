// SPDX-License-Identifier: Apache-2.0
// Dense frames for *_simd.cpp. A frame is stored as A^T: (k, units) row-major, so that both
//   c = A^T u   and   u + A delta
// run along memory. "Rows": the units of one column of U are adjacent. "Columns": the columns of U
// are adjacent and the units a stride apart.
#pragma once
#include "plan.h"
#include "simd.h"

namespace symfast {
namespace SYMFAST_ISA {

constexpr int kBlock = 8;  // coefficients kept in registers at once

// sums[r][q] += at[q][j] x[r][j], lane by lane, over `units` units of R rows.
template <int R, int K, typename T>
SF_INLINE void add_products(const T* x, int64_t row, const Acc<T>* at, int64_t next, int64_t units,
                            Vec<Acc<T>> (&kept)[R][K]) {
  using A = Acc<T>;
  constexpr int W = kLanes<A>;
  Vec<A> sums[R][K];
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < K; ++q) sums[r][q] = kept[r][q];
  }
  const int64_t full = units / W * W;
  for (int64_t j = 0; j < full; j += W) {
    Vec<A> v[R];
    for (int r = 0; r < R; ++r) v[r] = load(x + r * row + j);
    for (int q = 0; q < K; ++q) {
      const Vec<A> a = load(at + q * next + j);
      for (int r = 0; r < R; ++r) sums[r][q] += a * v[r];
    }
  }
  if (const int64_t rest = units - full) {
    for (int q = 0; q < K; ++q) {
      const Vec<A> a = load_some(at + q * next + full, rest);
      for (int r = 0; r < R; ++r) sums[r][q] += a * load_some(x + r * row + full, rest);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < K; ++q) kept[r][q] = sums[r][q];
  }
}

// c[r][q] = sum_j at[q][j] x[r][j] for R rows and K coefficients.
template <int R, int K, typename T>
SF_INLINE void dots(const T* x, int64_t row, const Acc<T>* at, int64_t units, Acc<T>* c,
                    int64_t ldc) {
  Vec<Acc<T>> sums[R][K] = {};
  add_products<R, K>(x, row, at, units, units, sums);
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < K; ++q) c[r * ldc + q] = sum(sums[r][q]);
  }
}

// y[r] = x[r] + sum_q at[q] delta[r][q]; K = 0 means k at run time.
template <int R, int K, typename T>
SF_INLINE void add_rows(const T* x, T* y, int64_t row, const Acc<T>* at, int64_t next,
                        int64_t units, const Acc<T>* delta, int64_t k) {
  using A = Acc<T>;
  constexpr int W = kLanes<A>;
  const int64_t count = K ? K : k;
  const int64_t full = units / W * W;
  for (int64_t j = 0; j < full; j += W) {
    Vec<A> v[R];
    for (int r = 0; r < R; ++r) v[r] = load(x + r * row + j);
    for (int64_t q = 0; q < count; ++q) {
      const Vec<A> a = load(at + q * next + j);
      for (int r = 0; r < R; ++r) v[r] += a * delta[r * k + q];
    }
    for (int r = 0; r < R; ++r) store(y + r * row + j, v[r]);
  }
  if (const int64_t rest = units - full) {
    for (int r = 0; r < R; ++r) {
      Vec<A> v = load_some(x + r * row + full, rest);
      for (int64_t q = 0; q < count; ++q) {
        v += load_some(at + q * next + full, rest) * delta[r * k + q];
      }
      store_some(y + r * row + full, v, rest);
    }
  }
}

// All k coefficients of R rows, in blocks that fit the registers.
template <int R, typename T>
SF_INLINE void all_dots(const T* x, int64_t row, const Acc<T>* at, int64_t units, Acc<T>* c,
                        int64_t k) {
  int64_t q = 0;
  for (; q + kBlock <= k; q += kBlock) dots<R, kBlock>(x, row, at + q * units, units, c + q, k);
  for (; q + 4 <= k; q += 4) dots<R, 4>(x, row, at + q * units, units, c + q, k);
  for (; q + 2 <= k; q += 2) dots<R, 2>(x, row, at + q * units, units, c + q, k);
  for (; q < k; ++q) dots<R, 1>(x, row, at + q * units, units, c + q, k);
}

// The most rows whose K sums each fit the registers beside one vector of the frame.
template <int K>
constexpr int kRowsAtOnce = kVectorBytes < 64            ? 1
                            : K == 1 || K == 2 || K == 4 ? 4
                                                         : 3;
constexpr int64_t kUnitTile = 128;  // units of a frame that are used twice while they are near

// One copy of each for all verbs.
template <int R, int K, typename T>
void tile_products(const T* x, int64_t row, const Acc<T>* at, int64_t next, int64_t units,
                   Vec<Acc<T>> (&sums)[R][K]) {
  add_products<R, K>(x, row, at, next, units, sums);
}
template <int R, int K, typename T>
void tile_add(const T* x, T* y, int64_t row, const Acc<T>* at, int64_t next, int64_t units,
              const Acc<T>* delta) {
  add_rows<R, K>(x, y, row, at, next, units, delta, K);
}

// R rows at a time in two passes, c = A^T x and y = x + A delta, the second of one block beside the
// first of the next: memory is read while the registers work.
template <int K, typename T, typename Finish>
SF_INLINE int64_t dense_row_blocks(const T* x, T* y, int64_t row, const Acc<T>* at, int64_t units,
                                   int64_t begin, int64_t end, Acc<T>* c, const Finish& finish) {
  constexpr int R = kRowsAtOnce<K>;
  Vec<Acc<T>> sums[R][K] = {};
  if (begin + R <= end) tile_products<R, K>(x + begin * row, row, at, units, units, sums);
  int64_t r = begin;
  for (; r + R <= end; r += R) {
    bool write = false;
    for (int i = 0; i < R; ++i) {
      for (int q = 0; q < K; ++q) {
        c[i * K + q] = sum(sums[i][q]);
        sums[i][q] = Vec<Acc<T>>{};
      }
      write = finish(r + i, c + i * K);
    }
    const bool more = r + 2 * R <= end;
    for (int64_t j = 0; j < units; j += kUnitTile) {
      const int64_t count = units - j < kUnitTile ? units - j : kUnitTile;
      const T* from = x + r * row + j;
      if (more) tile_products<R, K>(from + R * row, row, at + j, units, count, sums);
      if (write) tile_add<R, K>(from, y + r * row + j, row, at + j, units, count, c);
    }
  }
  return r;
}

// Rows kernel: for every row r in [begin, end), c = A^T x_r, then `finish(r, c)` turns c into delta
// and says whether to write y_r = x_r + A delta. c has room for 4 * k.
template <int K, typename T, typename Finish>
SF_INLINE void dense_rows(const T* x, T* y, int64_t row, const Acc<T>* at, int64_t step,
                          int64_t units, int64_t k, int64_t begin, int64_t end, Acc<T>* c,
                          const Finish& finish) {
  int64_t r = begin;
  const auto block = [&]<int R>() {
    const T* from = x + r * row;
    const Acc<T>* frame = at + r * step;
    if constexpr (K > 0) {
      dots<R, K>(from, row, frame, units, c, K);
    } else {
      all_dots<R>(from, row, frame, units, c, k);
    }
    bool write = false;
    for (int i = 0; i < R; ++i) write = finish(r + i, c + i * k);
    if (write) add_rows<R, K>(from, y + r * row, row, frame, units, units, c, k);
    r += R;
  };
  if (step == 0) {
    if constexpr (K > 0) {
      r = dense_row_blocks<K>(x, y, row, at, units, begin, end, c, finish);
    } else {
      while (r + kRowsAtOnce<K> <= end) block.template operator()<kRowsAtOnce<K>>();
    }
  }
  while (r < end) block.template operator()<1>();
}

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

// Calls run<K>(q) for blocks of K coefficients.
template <typename Run>
SF_INLINE void each_coefficient_block(int64_t k, const Run& run) {
  int64_t q = 0;
  for (; q + kBlock <= k; q += kBlock) run.template operator()<kBlock>(q);
  for (; q + 4 <= k; q += 4) run.template operator()<4>(q);
  for (; q + 2 <= k; q += 2) run.template operator()<2>(q);
  for (; q < k; ++q) run.template operator()<1>(q);
}

// Columns kernel on `width` columns: c (k, ldc) = A^T U, along memory.
template <typename T>
void columns_dots(const T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t k,
                  int64_t width, Acc<T>* c, int64_t ldc) {
  using A = Acc<T>;
  for (int64_t i = 0; i < k * ldc; ++i) c[i] = 0;
  for (int64_t j = 0; j < units; j += kUnitBlock) {
    const int64_t count = units - j < kUnitBlock ? units - j : kUnitBlock;
    each_coefficient_block(k, [&]<int K>(int64_t q) {
      const auto block = FrameBlock<K, A>::of(at + q * units + j, units, count);
      each_column_vector<A>(width, [&]<bool partial>(int64_t t, int64_t some) {
        column_dots<K, partial>(u + j * unit + t, unit, block, count, c + q * ldc + t, ldc, some);
      });
    });
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

// Columns kernel on `width` columns: U += A delta. Backwards: the last units are still near.
template <int K, typename T>
void columns_add(T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t k, int64_t width,
                 const Acc<T>* delta, int64_t ldc) {
  using A = Acc<T>;
  for (int64_t j = (units - 1) / kUnitBlock * kUnitBlock; j >= 0; j -= kUnitBlock) {
    const int64_t count = units - j < kUnitBlock ? units - j : kUnitBlock;
    const auto block = FrameBlock<K, A>::of(at + j, units, count);
    each_column_vector<A>(width, [&]<bool partial>(int64_t t, int64_t some) {
      T* first = u + j * unit + t;
      if constexpr (K == 0) {
        column_add_all<partial>(first, unit, at + j, units, count, k, delta + t, ldc, some);
      } else {
        column_add<K, partial>(first, unit, block, count, delta + t, ldc, some);
      }
    });
  }
}

template <typename T>
void columns_add(T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t k, int64_t width,
                 const Acc<T>* delta, int64_t ldc) {
  switch (k) {
    case 1:
      return columns_add<1>(u, unit, at, units, k, width, delta, ldc);
    case 2:
      return columns_add<2>(u, unit, at, units, k, width, delta, ldc);
    case 4:
      return columns_add<4>(u, unit, at, units, k, width, delta, ldc);
    case 8:
      return columns_add<8>(u, unit, at, units, k, width, delta, ldc);
    default:
      return columns_add<0>(u, unit, at, units, k, width, delta, ldc);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
