// SPDX-License-Identifier: Apache-2.0
// Dense frames for *_simd.cpp. A frame is stored as A^T: (k, units) row-major, so that both
//   c = A^T u   and   u + A delta
// run along memory. Here the units of one column of U are adjacent, a row of memory; where its
// columns are, see dense_columns_simd.h.
#pragma once
#include "ahead_simd.h"
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
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < K; ++q) sums[r][q] = kept[r][q];
  }
  const int64_t full = units / W * W;
  for (int64_t j = 0; j < full; j += W) {
    Vec<A> v[R];
    for (int r = 0; r < R; ++r) v[r] = load(x + r * row + j);
#pragma GCC unroll 8
    for (int q = 0; q < K; ++q) {
      Vec<A> a = load(at + q * next + j);
      keep(a);
      for (int r = 0; r < R; ++r) sums[r][q] += a * v[r];
    }
  }
  if (const int64_t rest = units - full) {
#pragma GCC unroll 8
    for (int q = 0; q < K; ++q) {
      const Vec<A> a = load_some(at + q * next + full, rest);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[r][q] += a * load_some(x + r * row + full, rest);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < K; ++q) kept[r][q] = sums[r][q];
  }
}

// c[r][q] = sum_j at[q][j] x[r][j] for R rows and K coefficients.
template <int R, int K, typename T>
SF_INLINE void dots(const T* x, int64_t row, const Acc<T>* at, int64_t next, int64_t units,
                    Acc<T>* c, int64_t ldc) {
  Vec<Acc<T>> sums[R][K] = {};
  add_products<R, K>(x, row, at, next, units, sums);
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
  Vec<A> kept[R][K ? K : 1];  // y may be what delta points to, for all the compiler knows
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < K; ++q) kept[r][q] = Vec<A>{} + delta[r * k + q];
  }
  for (int64_t j = 0; j < full; j += W) {
    Vec<A> v[R];
    for (int r = 0; r < R; ++r) v[r] = load(x + r * row + j);
    for (int64_t q = 0; q < count; ++q) {
      Vec<A> a = load(at + q * next + j);
      keep(a);
      for (int r = 0; r < R; ++r) {
        if constexpr (K > 0) {
          v[r] += a * kept[r][q];
        } else {
          v[r] += a * delta[r * k + q];
        }
      }
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

// Calls run<K>(q) for blocks of K of the k coefficients that fit the registers.
template <typename Run>
SF_INLINE void each_coefficient_block(int64_t k, const Run& run) {
  int64_t q = 0;
  for (; q + kBlock <= k; q += kBlock) run.template operator()<kBlock>(q);
  for (; q + 4 <= k; q += 4) run.template operator()<4>(q);
  for (; q + 2 <= k; q += 2) run.template operator()<2>(q);
  for (; q < k; ++q) run.template operator()<1>(q);
}

// All k coefficients of R rows.
template <int R, typename T>
SF_INLINE void all_dots(const T* x, int64_t row, const Acc<T>* at, int64_t next, int64_t units,
                        Acc<T>* c, int64_t k) {
  each_coefficient_block(
      k, [&]<int K>(int64_t q) { dots<R, K>(x, row, at + q * next, next, units, c + q, k); });
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

// Asks for `bytes` of each of R rows.
template <int R, typename T>
SF_INLINE void ask_for_rows(const T* x, int64_t row, int64_t bytes) {
  for (int r = 0; r < R; ++r) ask_for(x + r * row, bytes);
}

// R rows at a time in two passes, c = A^T x and y = x + A delta, the second of one block beside the
// first of the next, a third one asked for: memory is read while the registers work.
template <int K, typename T, typename Finish>
SF_INLINE int64_t dense_row_blocks(const T* x, T* y, int64_t row, const Acc<T>* at, int64_t next,
                                   int64_t units, int64_t begin, int64_t end, Acc<T>* c,
                                   const Finish& finish) {
  constexpr int R = kRowsAtOnce<K>;
  Vec<Acc<T>> sums[R][K] = {};
  if (begin + R <= end) tile_products<R, K>(x + begin * row, row, at, next, units, sums);
  constexpr auto size = static_cast<int64_t>(sizeof(T));
  const int64_t ahead = units ? (1 + blocks_ahead(R * units * size)) * R * row : 0;
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
      ask_for_rows<R>(from + ahead, row, count * size);
      if (more) tile_products<R, K>(from + R * row, row, at + j, next, count, sums);
      if (write) tile_add<R, K>(from, y + r * row + j, row, at + j, next, count, c);
    }
  }
  return r;
}

// Rows kernel: `next` apart lie the rows of A^T, `step` apart the frames. For every row r in
// [begin, end), c = A^T x_r, then `finish(r, c)` turns c into delta and says whether to write y_r =
// x_r + A delta. c has room for 4 * k.
template <int K, typename T, typename Finish>
SF_INLINE void dense_rows(const T* x, T* y, int64_t row, const Acc<T>* at, int64_t step,
                          int64_t next, int64_t units, int64_t k, int64_t begin, int64_t end,
                          Acc<T>* c, const Finish& finish) {
  int64_t r = begin;
  const auto block = [&]<int R>() {
    const T* from = x + r * row;
    const Acc<T>* frame = at + r * step;
    if constexpr (K > 0) {
      dots<R, K>(from, row, frame, next, units, c, K);
    } else {
      all_dots<R>(from, row, frame, next, units, c, k);
    }
    bool write = false;
    for (int i = 0; i < R; ++i) write = finish(r + i, c + i * k);
    if (write) add_rows<R, K>(from, y + r * row, row, frame, next, units, c, k);
    r += R;
  };
  if (step == 0) {
    if constexpr (K > 0) {
      r = dense_row_blocks<K>(x, y, row, at, next, units, begin, end, c, finish);
    } else {
      while (r + kRowsAtOnce<K> <= end) block.template operator()<kRowsAtOnce<K>>();
    }
  }
  while (r < end) block.template operator()<1>();
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
