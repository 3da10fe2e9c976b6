// SPDX-License-Identifier: Apache-2.0
// A step under a dense frame whose columns are adjacent in memory, once per instruction set: every
// block of units is updated and enters the coefficients while it is near, in one walk over memory;
// a second walk over the parameter alone adds A (f(C) - C). Large parameters: update_dense.h.
#include "plan_dense_simd.h"
#include "update_dense.h"

namespace symfast {
namespace SYMFAST_ISA {

void update_span(const UpdateCall& call, const Span& span);

namespace {

constexpr int64_t kNear = 8192;     // elements that are updated, then enter from a near cache
constexpr int64_t kRowsBeside = 4;  // streams that memory serves together

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

// The units of a tile and the frame's numbers for them.
template <typename T>
T* units_of(const PlanCall& plan, const DenseTile& tile) {
  const Task& task = *tile.task;
  return static_cast<T*>(plan.data[task.tensor]) + task.base + tile.o * task.outer_stride +
         tile.first * task.unit_stride + tile.column;
}
template <typename A>
const A* frame_of(const PlanCall& plan, const DenseTile& tile) {
  const Task& task = *tile.task;
  return static_cast<const A*>(plan.frames) + task.pool + tile.o * task.frame_step + tile.first;
}

template <typename T>
void enter(const PlanCall& plan, const DenseTile& tile) {
  const Task& task = *tile.task;
  columns_dots_add(units_of<T>(plan, tile), task.unit_stride, frame_of<Acc<T>>(plan, tile),
                   task.frame_row, tile.units, task.count, tile.width, static_cast<Acc<T>*>(tile.c),
                   tile.ldc);
}

template <Verb verb, typename A>
void finish(const PlanCall& plan, const DenseTile& tile) {
  const Chunk none{};
  const DenseColumn<verb, A> column{plan, *tile.task, none, Amounts<A>::of(plan)};
  A* c = static_cast<A*>(tile.c);
  const int64_t rows = tile.task->count;
  for (int64_t s = 1; s < tile.segments; ++s) {
    for (int64_t q = 0; q < rows; ++q) {
      A* to = c + q * tile.ldc;
      const A* from = to + s * rows * tile.ldc;
      for (int64_t i = 0; i < tile.width; ++i) to[i] += from[i];
    }
  }
  for (int64_t i = 0; i < tile.width; ++i) {
    DenseColumn<verb, A>::finish(column, tile.o, tile.column + i, c + i, tile.ldc);
  }
}

template <typename A>
void finish(const PlanCall& plan, const DenseTile& tile) {
  switch (plan.verb) {
    case kReflect:
      return finish<kReflect, A>(plan, tile);
    case kProject:
      return finish<kProject, A>(plan, tile);
    case kShrink:
      return finish<kShrink, A>(plan, tile);
    default:
      return finish<kProx, A>(plan, tile);
  }
}

template <typename T>
void add(const PlanCall& plan, const DenseTile& tile) {
  const Task& task = *tile.task;
  rows_add(units_of<T>(plan, tile), task.unit_stride, frame_of<Acc<T>>(plan, tile), task.frame_row,
           tile.units, task.count, tile.width, static_cast<const Acc<T>*>(tile.c), tile.ldc);
}

// All units of a tile, by one thread.
template <typename T>
void run_tile(const UpdateCall& update, const PlanCall& plan, DenseTile tile) {
  const Task& task = *tile.task;
  const int64_t unit = task.unit_stride, width = tile.width;
  auto* c = static_cast<Acc<T>*>(tile.c);
  for (int64_t i = 0; i < task.count * tile.ldc; ++i) c[i] = 0;
  const int64_t near = kNear / width / kUnitBlock * kUnitBlock;
  const int64_t block = near > kUnitBlock ? near : kUnitBlock;
  for (tile.first = 0; tile.first < task.units; tile.first += block) {
    const int64_t rest = task.units - tile.first;
    tile.units = rest < block ? rest : block;
    const int64_t begin = task.base + tile.o * task.outer_stride + tile.first * unit + tile.column;
    if (unit == width) {
      update_span(update, {task.tensor, begin, begin + tile.units * width});
    } else {
      update_span(update, {task.tensor, begin, begin + width, tile.units, unit, unit});
    }
    enter<T>(plan, tile);
  }
  tile.first = 0;
  tile.units = task.units;
  finish<Acc<T>>(plan, tile);
  add<T>(plan, tile);
}

template <typename T>
void run_chunk(const UpdateCall& update, const PlanCall& plan, const Chunk& chunk, void* scratch) {
  const Task& task = plan.tasks[chunk.task];
  const int64_t most = tile_columns(task);
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    for (int64_t t = chunk.c0; t < chunk.c1; t += most) {
      const int64_t width = chunk.c1 - t < most ? chunk.c1 - t : most;
      run_tile<T>(update, plan, {&task, o, 0, task.units, t, width, scratch, tile_step(task), 1});
    }
  }
}

// Calls run.operator()<T>() for the type of the parameters.
template <typename Run>
SF_INLINE void with_number(const PlanCall& plan, const Run& run) {
  switch (plan.number) {
    case Number::f64:
      return run.template operator()<double>();
    case Number::f32:
      return run.template operator()<float>();
    case Number::bf16:
      return run.template operator()<bf16>();
    case Number::f16:
      return run.template operator()<f16>();
  }
}

}  // namespace

void update_dense_columns(const UpdateCall& update, const PlanCall& plan, const Chunk& chunk,
                          void* scratch) {
  with_number(plan, [&]<typename T>() { run_chunk<T>(update, plan, chunk, scratch); });
}
void dense_tile_enter(const PlanCall& plan, const DenseTile& tile) {
  with_number(plan, [&]<typename T>() { enter<T>(plan, tile); });
}
void dense_tile_finish(const PlanCall& plan, const DenseTile& tile) {
  with_number(plan, [&]<typename T>() { finish<Acc<T>>(plan, tile); });
}
void dense_tile_add(const PlanCall& plan, const DenseTile& tile) {
  with_number(plan, [&]<typename T>() { add<T>(plan, tile); });
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
