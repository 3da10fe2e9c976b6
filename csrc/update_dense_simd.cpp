// SPDX-License-Identifier: Apache-2.0
// A step under a dense frame whose columns are adjacent in memory, once per instruction set. The
// coefficients of a column need all of its units before the first of them may change: every block
// of units is updated and enters them while it is near, in one walk over memory; a second walk over
// the parameter alone, a tile of columns at a time, adds A (f(C) - C). Tiles are a page wide: a
// narrower one would wait for the tables of pages more than for its numbers.
#include "plan_dense_simd.h"
#include "update_call.h"

namespace symfast {
namespace SYMFAST_ISA {

void update_span(const UpdateCall& call, const Span& span);

namespace {

constexpr int64_t kNearColumns = 256;  // of a block of units: they enter from the first-level cache
constexpr int64_t kRowsBeside = 4;     // streams that memory serves together

// to[j] += sum_q at[q][j] delta[q] for R rows of `width` columns; K = 0 means k at run time.
template <int R, int K, typename T>
SF_INLINE void row_block_add(T* to, int64_t unit, const Acc<T>* at, int64_t next, int64_t k,
                             int64_t width, const Acc<T>* delta, int64_t ldc, int64_t ahead) {
  using A = Acc<T>;
  constexpr int64_t W = kLanes<A>;
  A a[R][K ? K : 1];
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < K; ++q) a[r][q] = at[q * next + r];
  }
  const auto add = [&]<bool partial>(int64_t t, int64_t some) {
    Vec<A> d[K ? K : 1];
    for (int q = 0; q < K; ++q) d[q] = load(delta + q * ldc + t);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      Vec<A> v = load_lanes<partial>(to + r * unit + t, some);
      if constexpr (K > 0) {
#pragma GCC unroll 4
        for (int q = 0; q < K; ++q) v += d[q] * a[r][q];
      } else {
        for (int64_t q = 0; q < k; ++q) v += load(delta + q * ldc + t) * at[q * next + r];
      }
      store_lanes<partial>(to + r * unit + t, v, some);
    }
  };
  int64_t t = 0;
  for (; t + W <= width; t += W) {
    for (int r = 0; r < R; ++r) {
      const auto line = reinterpret_cast<uintptr_t>(to + r * unit + t);
      __builtin_prefetch(reinterpret_cast<const void*>(line - ahead * sizeof(T)));
    }
    add.template operator()<false>(t, 0);
  }
  if (t < width) add.template operator()<true>(t, width - t);
}

// All units, the last first: they are still near.
template <int K, typename T>
void rows_add(T* to, int64_t unit, const Acc<T>* at, int64_t next, int64_t units, int64_t k,
              int64_t width, const Acc<T>* delta, int64_t ldc) {
  int64_t j = units;
  for (; j >= kRowsBeside; j -= kRowsBeside) {
    const int64_t first = j - kRowsBeside;
    row_block_add<kRowsBeside, K>(to + first * unit, unit, at + first, next, k, width, delta, ldc,
                                  kRowsBeside * unit);
  }
  for (; j > 0; --j) {
    row_block_add<1, K>(to + (j - 1) * unit, unit, at + j - 1, next, k, width, delta, ldc, 0);
  }
}

template <typename T>
void rows_add(T* to, int64_t unit, const Acc<T>* at, int64_t next, int64_t units, int64_t k,
              int64_t width, const Acc<T>* delta, int64_t ldc) {
  switch (k) {
    case 1:
      return rows_add<1>(to, unit, at, next, units, k, width, delta, ldc);
    case 2:
      return rows_add<2>(to, unit, at, next, units, k, width, delta, ldc);
    case 4:
      return rows_add<4>(to, unit, at, next, units, k, width, delta, ldc);
    default:
      return rows_add<0>(to, unit, at, next, units, k, width, delta, ldc);
  }
}

template <Verb verb, typename T>
void run_tile(const UpdateCall& update, const DenseColumn<verb, Acc<T>>& column, int64_t o,
              int64_t t, int64_t width, Acc<T>* c) {
  using A = Acc<T>;
  const Task& task = column.task;
  const int64_t ldc = tile_step(task), unit = task.unit_stride;
  const int64_t start = task.base + o * task.outer_stride + t;
  // whole units that are asked for early: as many as kAheadBytes hold
  const int64_t ahead = (kAheadBytes - 1) / (width * static_cast<int64_t>(sizeof(T))) * unit + unit;
  T* base = static_cast<T*>(column.call.data[task.tensor]) + start;
  const A* at = static_cast<const A*>(column.call.frames) + task.pool + o * task.frame_step;
  for (int64_t i = 0; i < task.count * ldc; ++i) c[i] = 0;
  for (int64_t j = 0; j < task.units; j += kUnitBlock) {
    const int64_t count = task.units - j < kUnitBlock ? task.units - j : kUnitBlock;
    for (int64_t s = 0; s < width; s += kNearColumns) {
      const int64_t some = width - s < kNearColumns ? width - s : kNearColumns;
      const int64_t begin = start + j * unit + s;
      update_span(update, {task.tensor, begin, begin + some, count, unit, ahead});
      columns_dots_add(base + j * unit + s, unit, at + j, task.frame_row, count, task.count, some,
                       c + s, ldc);
    }
  }
  for (int64_t i = 0; i < width; ++i) {
    DenseColumn<verb, A>::finish(column, o, t + i, c + i, ldc);
  }
  rows_add(base, unit, at, task.frame_row, task.units, task.count, width, c, ldc);
}

template <Verb verb, typename T>
void run_chunk(const UpdateCall& update, const PlanCall& plan, const Chunk& chunk, void* scratch) {
  const Task& task = plan.tasks[chunk.task];
  using A = Acc<T>;
  const DenseColumn<verb, A> column{plan, task, chunk, Amounts<A>::of(plan)};
  const int64_t tile = tile_columns(task);
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    for (int64_t t = chunk.c0; t < chunk.c1; t += tile) {
      const int64_t width = chunk.c1 - t < tile ? chunk.c1 - t : tile;
      run_tile<verb, T>(update, column, o, t, width, static_cast<A*>(scratch));
    }
  }
}

template <typename T>
void pick_verb(const UpdateCall& update, const PlanCall& plan, const Chunk& chunk, void* scratch) {
  switch (plan.verb) {
    case kReflect:
      return run_chunk<kReflect, T>(update, plan, chunk, scratch);
    case kProject:
      return run_chunk<kProject, T>(update, plan, chunk, scratch);
    case kShrink:
      return run_chunk<kShrink, T>(update, plan, chunk, scratch);
    default:
      return run_chunk<kProx, T>(update, plan, chunk, scratch);
  }
}

}  // namespace

void update_dense_columns(const UpdateCall& update, const PlanCall& plan, const Chunk& chunk,
                          void* scratch) {
  switch (plan.number) {
    case Number::f64:
      return pick_verb<double>(update, plan, chunk, scratch);
    case Number::f32:
      return pick_verb<float>(update, plan, chunk, scratch);
    case Number::bf16:
      return pick_verb<bf16>(update, plan, chunk, scratch);
    case Number::f16:
      return pick_verb<f16>(update, plan, chunk, scratch);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
