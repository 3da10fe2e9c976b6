// SPDX-License-Identifier: Apache-2.0
// Index frames whose units are adjacent in memory (unit dim last): one row holds all units, so a
// symmetry would touch single numbers. W rows at a time are transposed into the workspace, where
// unit j is a vector of W columns, worked on there, and transposed back.
#pragma once
#include <utility>

#include "plan_call.h"
#include "simd.h"

namespace symfast {
namespace SYMFAST_ISA {

// Lanes without the bit `half` come from a, the others from b; high: read the half above.
template <typename A, int half, bool high, int... lane>
SF_INLINE Vec<A> exchange(Vec<A> a, Vec<A> b, std::integer_sequence<int, lane...>) {
  constexpr int W = kLanes<A>;
  return shuffle<A, ((high ? lane | half : lane & ~half) + ((lane & half) ? W : 0))...>(a, b);
}

// The W x W block v[row][column] becomes v[column][row].
template <typename A, int half = kLanes<A> / 2>
SF_INLINE void transpose_block(Vec<A> (&v)[kLanes<A>]) {
  constexpr int W = kLanes<A>;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if (i & half) continue;
    const Vec<A> a = v[i], b = v[i | half];
    v[i] = exchange<A, half, false>(a, b, std::make_integer_sequence<int, W>());
    v[i | half] = exchange<A, half, true>(a, b, std::make_integer_sequence<int, W>());
  }
  if constexpr (half > 1) transpose_block<A, half / 2>(v);
}

// scratch[unit][W] from `rows` <= W rows of `units` numbers; missing rows read as zero.
template <typename T>
SF_INLINE void gather_rows(const T* data, int64_t stride, int64_t rows, int64_t units,
                           Acc<T>* scratch) {
  using A = Acc<T>;
  constexpr int64_t W = kLanes<A>;
  for (int64_t j = 0; j < units; j += W) {
    const int64_t count = units - j < W ? units - j : W;
    Vec<A> v[W] = {};
    if (rows == W && count == W) {
      for (int64_t i = 0; i < W; ++i) {
        __builtin_prefetch(data + i * stride + j + 8 * W);  // more rows than the hardware follows
        v[i] = load(data + i * stride + j);
      }
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        v[i] = count == W ? load(data + i * stride + j) : load_some(data + i * stride + j, count);
      }
    }
    transpose_block<A>(v);
    for (int64_t i = 0; i < count; ++i) store(scratch + (j + i) * W, v[i]);
  }
}

// The inverse of gather_rows.
template <typename T>
SF_INLINE void scatter_rows(T* data, int64_t stride, int64_t rows, int64_t units,
                            const Acc<T>* scratch) {
  using A = Acc<T>;
  constexpr int64_t W = kLanes<A>;
  for (int64_t j = 0; j < units; j += W) {
    const int64_t count = units - j < W ? units - j : W;
    Vec<A> v[W] = {};
    for (int64_t i = 0; i < count; ++i) v[i] = load(scratch + (j + i) * W);
    transpose_block<A>(v);
    for (int64_t i = 0; i < rows; ++i) {
      if (count == W) {
        store(data + i * stride + j, v[i]);
      } else {
        store_some(data + i * stride + j, v[i], count);
      }
    }
  }
}

// Runs `kernel(task, chunk, data)` on transposed blocks: inner index = row, units W apart.
template <Verb verb, typename T, typename Kernel>
void run_transposed(const Task& task, const Chunk& chunk, T* data, Acc<T>* scratch,
                    const Kernel& kernel) {
  constexpr int64_t W = kLanes<Acc<T>>;
  for (int64_t o = chunk.o0; o < chunk.o1; o += W) {
    const int64_t rows = chunk.o1 - o < W ? chunk.o1 - o : W;
    T* first = data + task.base + o * task.outer_stride;
    gather_rows(first, task.outer_stride, rows, task.units, scratch);
    Task block = task;
    block.base = 0;
    block.outer = 1;
    block.unit_stride = W;
    block.inner = rows;
    block.inner_stride = 1;
    block.out = task.out + o * task.out_outer;
    block.out_inner = task.out_outer;
    Chunk part = chunk;
    part.o0 = 0;
    part.o1 = 1;
    part.c0 = 0;
    part.c1 = rows;
    kernel(block, part, scratch);
    if constexpr (verb != kNorms && verb != kCoefficients) {
      scatter_rows(first, task.outer_stride, rows, task.units, scratch);
    }
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
