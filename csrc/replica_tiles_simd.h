// SPDX-License-Identifier: Apache-2.0
// Small matrix products of lanes for replica_simd.cpp: tiles of sums in registers. Every sum runs
// over k in order whatever the tile, so results do not depend on how a matrix is cut.
#pragma once
#include "arithmetic_simd.h"
#include "each_simd.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

// Rows of a tile; with four columns as many sums as registers can hold.
#if defined(__AVX512F__)
constexpr int kTileRows = 4;
#else
constexpr int kTileRows = 2;
#endif

// Rows are short: a call of memcpy would take longer than the copy.
template <typename T>
SF_INLINE void copy_numbers(T* to, const T* from, std::int64_t count) {
  const auto copy = [&]<int size>() SF_LAMBDA {
    __builtin_memcpy(to, from, size * sizeof(T));
    to += size;
    from += size;
  };
  for (; count >= 16; count -= 16) copy.template operator()<16>();
  if (count & 8) copy.template operator()<8>();
  if (count & 4) copy.template operator()<4>();
  if (count & 2) copy.template operator()<2>();
  if (count & 1) copy.template operator()<1>();
}

// Where entry (row or column, k) of a factor lies, in numbers.
struct Stride {
  std::int64_t line, k;
};

// sum[r][c] += sum_k a(r, k) b(c, k): a holds lanes, b lanes or numbers common to all lanes.
template <bool kShared, int R, int C, typename T>
SF_INLINE void multiply(Vec<T> (&sum)[R][C], const T* a, Stride as, const T* b, Stride bs,
                        std::int64_t length) {
  for (std::int64_t k = 0; k < length; ++k) {
    Vec<T> left[R];
    each<R>([&](auto r) SF_LAMBDA {
      left[r] = lanes(a + r * as.line + k * as.k);
      keep(left[r]);
    });
    each<C>([&](auto c) SF_LAMBDA {
      Vec<T> right;
      if constexpr (kShared) {
        right = b[c * bs.line + k * bs.k] - Vec<T>{};
      } else {
        right = lanes(b + c * bs.line + k * bs.k);
      }
      if constexpr (R > 1) keep(right);
      each<R>([&](auto r) SF_LAMBDA {
        sum[r][c] = Arithmetic<Vec<T>>::multiply_add(left[r], right, sum[r][c]);
      });
    });
  }
}

// Calls body<count>(start) over 0 .. size in pieces of `most`, then of powers of two below it.
template <int most, typename Body>
SF_INLINE void cut(std::int64_t size, const Body& body) {
  std::int64_t start = 0;
  for (; start + most <= size; start += most) body.template operator()<most>(start);
  if constexpr (most > 4) {
    if (start + 4 <= size) {
      body.template operator()<4>(start);
      start += 4;
    }
  }
  if constexpr (most > 2) {
    if (start + 2 <= size) {
      body.template operator()<2>(start);
      start += 2;
    }
  }
  if constexpr (most > 1) {
    if (start < size) body.template operator()<1>(start);
  }
}

// Columns beside R rows: single rows need more of them for as many independent sums.
template <int R>
constexpr int kTileColumns = R == 1 ? 8 : 4;

// Calls body<R, C>(row, column) over a whole matrix; the columns of some rows are one function.
template <typename Body>
SF_INLINE void tile(std::int64_t rows, std::int64_t columns, const Body& body) {
  cut<kTileRows>(rows, [&]<int R>(std::int64_t row) __attribute__((noinline)) {
    cut<kTileColumns<R>>(columns, [&]<int C>(std::int64_t column)
                                      SF_LAMBDA { body.template operator()<R, C>(row, column); });
  });
}

}  // namespace
}  // namespace SYMFAST_ISA
}  // namespace symfast
