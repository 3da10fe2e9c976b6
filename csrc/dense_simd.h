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

// c[r][q] = sum_j at[q][j] x[r][j] for R rows and K coefficients.
template <int R, int K, typename T>
SF_INLINE void dots(const T* x, int64_t row, const Acc<T>* at, int64_t units, Acc<T>* c,
                    int64_t ldc) {
  using A = Acc<T>;
  constexpr int W = kLanes<A>;
  Vec<A> sums[R][K] = {};
  const int64_t full = units / W * W;
  for (int64_t j = 0; j < full; j += W) {
    Vec<A> v[R];
    for (int r = 0; r < R; ++r) v[r] = load(x + r * row + j);
    for (int q = 0; q < K; ++q) {
      const Vec<A> a = load(at + q * units + j);
      for (int r = 0; r < R; ++r) sums[r][q] += a * v[r];
    }
  }
  if (const int64_t rest = units - full) {
    for (int q = 0; q < K; ++q) {
      const Vec<A> a = load_some(at + q * units + full, rest);
      for (int r = 0; r < R; ++r) sums[r][q] += a * load_some(x + r * row + full, rest);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < K; ++q) c[r * ldc + q] = sum(sums[r][q]);
  }
}

// y[r] = x[r] + sum_q at[q] delta[r][q]; K = 0 means k at run time.
template <int R, int K, typename T>
SF_INLINE void add_rows(const T* x, T* y, int64_t row, const Acc<T>* at, int64_t units,
                        const Acc<T>* delta, int64_t k) {
  using A = Acc<T>;
  constexpr int W = kLanes<A>;
  const int64_t count = K ? K : k;
  const int64_t full = units / W * W;
  for (int64_t j = 0; j < full; j += W) {
    Vec<A> v[R];
    for (int r = 0; r < R; ++r) v[r] = load(x + r * row + j);
    for (int64_t q = 0; q < count; ++q) {
      const Vec<A> a = load(at + q * units + j);
      for (int r = 0; r < R; ++r) v[r] += a * delta[r * k + q];
    }
    for (int r = 0; r < R; ++r) store(y + r * row + j, v[r]);
  }
  if (const int64_t rest = units - full) {
    for (int r = 0; r < R; ++r) {
      Vec<A> v = load_some(x + r * row + full, rest);
      for (int64_t q = 0; q < count; ++q) {
        v += load_some(at + q * units + full, rest) * delta[r * k + q];
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

// The most rows whose sums fit the registers beside one vector of the frame.
constexpr int kRowsAtOnce = kVectorBytes == 64 ? 3 : 1;

// Rows kernel: for every row r in [begin, end), c = A^T x_r, then `finish(r, c)` turns c into delta
// and says whether to write y_r = x_r + A delta. c has room for kRowsAtOnce * k.
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
    if (write) add_rows<R, K>(from, y + r * row, row, frame, units, c, k);
    r += R;
  };
  if (step == 0) {
    while (r + kRowsAtOnce <= end) block.template operator()<kRowsAtOnce>();
  }
  while (r < end) block.template operator()<1>();
}

// Vectors of columns a sub-tile holds.
constexpr int kColumnVectors = kVectorBytes == 64 ? 2 : 1;
constexpr int64_t kRowBlock = 8;  // units whose sums stay in registers
constexpr int64_t kAddBlock = 2;  // units that share one load of delta

// Units lie pages apart, where the hardware does not look ahead: fetch the next block of them.
template <int N, typename T>
SF_INLINE void fetch_next_block(const T* u, int64_t unit) {
  constexpr int W = kLanes<Acc<T>>, kLine = 64 / static_cast<int>(sizeof(T));
  for (int i = 0; i < N * W; i += kLine) __builtin_prefetch(u + kRowBlock * unit + i);
}

// c[q][t] += sum_{j in block} at[q][j] u[j][t] for N vectors of columns; `some` < lanes: partial.
template <int K, int N, bool partial, typename T>
SF_INLINE void column_dots(const T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t rows,
                           Acc<T>* c, int64_t ldc, int64_t some) {
  using A = Acc<T>;
  constexpr int W = kLanes<A>;
  Vec<A> sums[K][N];
  for (int q = 0; q < K; ++q) {
    for (int i = 0; i < N; ++i) sums[q][i] = load(c + q * ldc + i * W);
  }
  for (int64_t j = 0; j < rows; ++j) {
    fetch_next_block<N>(u + j * unit, unit);
    Vec<A> v[N];
    for (int i = 0; i < N; ++i) {
      v[i] = partial ? load_some(u + j * unit, some) : load(u + j * unit + i * W);
    }
    for (int q = 0; q < K; ++q) {
      for (int i = 0; i < N; ++i) sums[q][i] += v[i] * at[q * units + j];
    }
  }
  for (int q = 0; q < K; ++q) {
    for (int i = 0; i < N; ++i) store(c + q * ldc + i * W, sums[q][i]);
  }
}

// u[j][t] += sum_q at[q][j] delta[q][t]; K = 0 means k at run time.
template <int K, int N, bool partial, typename T>
SF_INLINE void add_columns(T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t rows,
                           const Acc<T>* delta, int64_t ldc, int64_t k, int64_t some) {
  using A = Acc<T>;
  constexpr int W = kLanes<A>;
  const int64_t count = K ? K : k;
  for (int64_t j = 0; j < rows; ++j) {
    fetch_next_block<N>(u + j * unit, unit);
    Vec<A> v[N];
    for (int i = 0; i < N; ++i) {
      v[i] = partial ? load_some(u + j * unit, some) : load(u + j * unit + i * W);
    }
    for (int64_t q = 0; q < count; ++q) {
      for (int i = 0; i < N; ++i) v[i] += load(delta + q * ldc + i * W) * at[q * units + j];
    }
    for (int i = 0; i < N; ++i) {
      if constexpr (partial) {
        store_some(u + j * unit, v[i], some);
      } else {
        store(u + j * unit + i * W, v[i]);
      }
    }
  }
}

// Calls tile(t, N vectors, some) over `width` columns.
template <typename A, typename Tile>
SF_INLINE void each_column_tile(int64_t width, const Tile& tile) {
  constexpr int W = kLanes<A>;
  int64_t t = 0;
  for (; t + kColumnVectors * W <= width; t += kColumnVectors * W) {
    tile.template operator()<kColumnVectors, false>(t, 0);
  }
  for (; t + W <= width; t += W) tile.template operator()<1, false>(t, 0);
  if (t < width) tile.template operator()<1, true>(t, width - t);
}

// c (K, ldc) += A^T U on `width` columns, for K rows of A^T.
template <int K, typename T>
SF_INLINE void sweep_dots(const T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t width,
                          Acc<T>* c, int64_t ldc) {
  for (int64_t j = 0; j < units; j += kRowBlock) {
    const int64_t rows = units - j < kRowBlock ? units - j : kRowBlock;
    each_column_tile<Acc<T>>(width, [&]<int N, bool partial>(int64_t t, int64_t some) {
      column_dots<K, N, partial>(u + j * unit + t, unit, at + j, units, rows, c + t, ldc, some);
    });
  }
}

// Columns kernel on `width` columns: c (k, ldc) = A^T U.
template <typename T>
SF_INLINE void columns_dots(const T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t k,
                            int64_t width, Acc<T>* c, int64_t ldc) {
  for (int64_t i = 0; i < k * ldc; ++i) c[i] = 0;
  const auto sweep = [&]<int K>(int64_t q) {
    sweep_dots<K>(u, unit, at + q * units, units, width, c + q * ldc, ldc);
  };
  int64_t q = 0;
  for (; q + kBlock <= k; q += kBlock) sweep.template operator()<kBlock>(q);
  for (; q + 4 <= k; q += 4) sweep.template operator()<4>(q);
  for (; q + 2 <= k; q += 2) sweep.template operator()<2>(q);
  for (; q < k; ++q) sweep.template operator()<1>(q);
}

// Columns kernel on `width` columns: U += A delta.
template <int K, typename T>
SF_INLINE void sweep_add(T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t k,
                         int64_t width, const Acc<T>* delta, int64_t ldc) {
  for (int64_t j = 0; j < units; j += kAddBlock) {
    const int64_t rows = units - j < kAddBlock ? units - j : kAddBlock;
    each_column_tile<Acc<T>>(width, [&]<int N, bool partial>(int64_t t, int64_t some) {
      add_columns<K, N, partial>(u + j * unit + t, unit, at + j, units, rows, delta + t, ldc, k,
                                 some);
    });
  }
}

template <typename T>
SF_INLINE void columns_add(T* u, int64_t unit, const Acc<T>* at, int64_t units, int64_t k,
                           int64_t width, const Acc<T>* delta, int64_t ldc) {
  switch (k) {
    case 1:
      return sweep_add<1>(u, unit, at, units, k, width, delta, ldc);
    case 2:
      return sweep_add<2>(u, unit, at, units, k, width, delta, ldc);
    case 4:
      return sweep_add<4>(u, unit, at, units, k, width, delta, ldc);
    case 8:
      return sweep_add<8>(u, unit, at, units, k, width, delta, ldc);
    default:
      return sweep_add<0>(u, unit, at, units, k, width, delta, ldc);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
