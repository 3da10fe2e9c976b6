// SPDX-License-Identifier: Apache-2.0
// A step under a dense frame whose columns are adjacent in memory, once per instruction set: every
// block of units is updated and enters the coefficients while it is near, in one walk over memory;
// a second walk over the parameter alone, a tile of columns at a time, adds A (f(C) - C).
#include "plan_dense_simd.h"
#include "update_call.h"

namespace symfast {
namespace SYMFAST_ISA {

void update_span(const UpdateCall& call, const Span& span);

namespace {

template <Verb verb, typename T>
void run_tile(const UpdateCall& update, const DenseColumn<verb, Acc<T>>& column, int64_t o,
              int64_t t, int64_t width, Acc<T>* c) {
  using A = Acc<T>;
  const Task& task = column.task;
  const int64_t ldc = tile_step(task), unit = task.unit_stride;
  const int64_t start = task.base + o * task.outer_stride + t;
  T* base = static_cast<T*>(column.call.data[task.tensor]) + start;
  const A* at = static_cast<const A*>(column.call.frames) + task.pool + o * task.frame_step;
  for (int64_t i = 0; i < task.count * ldc; ++i) c[i] = 0;
  for (int64_t j = 0; j < task.units; j += kUnitBlock) {
    const int64_t count = task.units - j < kUnitBlock ? task.units - j : kUnitBlock;
    for (int64_t i = j; i < j + count; ++i) {
      update_span(update, {task.tensor, start + i * unit, start + i * unit + width});
    }
    columns_dots_add(base + j * unit, unit, at + j, task.frame_row, count, task.count, width, c,
                     ldc);
  }
  for (int64_t i = 0; i < width; ++i) {
    DenseColumn<verb, A>::finish(column, o, t + i, c + i, ldc);
  }
  columns_add(base, unit, at, task.frame_row, task.units, task.count, width, c, ldc);
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
