// SPDX-License-Identifier: Apache-2.0
// Dense frames for plan_simd.cpp: the three ways units can lie in memory.
#pragma once
#include "dense_columns_simd.h"
#include "plan_index_simd.h"

namespace symfast {
namespace SYMFAST_ISA {

// What a verb does with the coefficients c[q * step], q < k, of one column of U.
template <Verb verb, typename A>
struct DenseColumn {
  const PlanCall& call;
  const Task& task;
  const Chunk& chunk;
  const Amounts<A> amounts;

  double& partial(int64_t o, int64_t q) const {
    const int64_t slot = task.mirror_column_step ? q : task.mirror_step ? o - chunk.o0 : 0;
    return call.partial[chunk.partial + slot];
  }

  // c becomes delta = f(c) - c; the answer is whether there is something to add to U.
  template <int K = 0>
  SF_INLINE bool finish(const DenseColumn& self, int64_t o, int64_t column, A* c, int64_t step) {
    const Task& task = self.task;
    const int64_t k = K ? K : task.count;
    if constexpr (verb == kNorms) {
      for (int64_t q = 0; q < k; ++q) {
        const double v = c[q * step];
        self.partial(o, q) += v * v;
      }
      return false;
    } else if constexpr (verb == kCoefficients) {
      A* out = static_cast<A*>(self.call.out) + task.out + o * task.out_outer;
      for (int64_t q = 0; q < k; ++q) out[q * task.out_row + column * task.out_inner] = c[q * step];
      return false;
    } else {
      const int64_t group = task.group + o * task.group_step;
      const int64_t mirror = task.mirror + o * task.mirror_step;
      for (int64_t q = 0; q < k; ++q) {
        const A amount = self.amounts.at(group, mirror + q * task.mirror_column_step);
        const A value = c[q * step];
        c[q * step] = new_coefficient<verb>(value, amount) - value;
      }
      return true;
    }
  }
};

// Units adjacent: every o is a row of memory.
template <Verb verb, int K, typename T>
void run_dense_rows(const DenseColumn<verb, Acc<T>>& column, T* data, Acc<T>* scratch) {
  const Task& task = column.task;
  const auto* frames = static_cast<const Acc<T>*>(column.call.frames) + task.pool;
  T* base = data + task.base;
  dense_rows<K>(base, base, task.outer_stride, frames, task.frame_step, task.frame_row, task.units,
                task.count, column.chunk.o0, column.chunk.o1, scratch, [&](int64_t o, Acc<T>* c) {
                  return DenseColumn<verb, Acc<T>>::template finish<K>(column, o, 0, c, 1);
                });
}

// Columns adjacent: tiles of columns, units a stride apart.
template <Verb verb, typename T>
void run_dense_columns(const DenseColumn<verb, Acc<T>>& column, T* data, Acc<T>* c) {
  const Task& task = column.task;
  const Chunk& chunk = column.chunk;
  const int64_t tile = tile_columns(task), ldc = tile_step(task);
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    const auto* at =
        static_cast<const Acc<T>*>(column.call.frames) + task.pool + o * task.frame_step;
    T* base = data + task.base + o * task.outer_stride;
    for (int64_t t = chunk.c0; t < chunk.c1; t += tile) {
      const int64_t width = chunk.c1 - t < tile ? chunk.c1 - t : tile;
      columns_dots(base + t, task.unit_stride, at, task.frame_row, task.units, task.count, width, c,
                   ldc, segment_units(task));
      bool write = false;
      for (int64_t i = 0; i < width; ++i) {
        write = DenseColumn<verb, Acc<T>>::finish(column, o, t + i, c + i, ldc);
      }
      if (write) {
        columns_add(base + t, task.unit_stride, at, task.frame_row, task.units, task.count, width,
                    c, ldc);
      }
    }
  }
}

// Nothing adjacent: gather a column, work on it, scatter it.
template <Verb verb, typename T>
void run_dense_strided(const DenseColumn<verb, Acc<T>>& column, T* data, Acc<T>* scratch) {
  const Task& task = column.task;
  const Chunk& chunk = column.chunk;
  T* buffer = reinterpret_cast<T*>(scratch + 4 * task.count);
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    const auto* at =
        static_cast<const Acc<T>*>(column.call.frames) + task.pool + o * task.frame_step;
    for (int64_t i = chunk.c0; i < chunk.c1; ++i) {
      T* u = data + task.base + o * task.outer_stride + i * task.inner_stride;
      for (int64_t j = 0; j < task.units; ++j) buffer[j] = u[j * task.unit_stride];
      dense_rows<0>(buffer, buffer, 0, at, 1, task.frame_row, task.units, task.count, 0, 1, scratch,
                    [&](int64_t, Acc<T>* c) {
                      return DenseColumn<verb, Acc<T>>::finish(column, o, i, c, 1);
                    });
      if constexpr (verb != kNorms && verb != kCoefficients) {
        for (int64_t j = 0; j < task.units; ++j) u[j * task.unit_stride] = buffer[j];
      }
    }
  }
}

template <Verb verb, typename T>
void run_dense(const PlanCall& call, const Task& task, const Chunk& chunk, T* data,
               Acc<T>* scratch) {
  const DenseColumn<verb, Acc<T>> column{call, task, chunk, Amounts<Acc<T>>::of(call)};
  if (task.unit_stride != 1 || task.inner != 1) {
    if (task.inner_stride == 1) return run_dense_columns<verb, T>(column, data, scratch);
    return run_dense_strided<verb, T>(column, data, scratch);
  }
  if constexpr (verb != kNorms && verb != kCoefficients) {
    switch (task.count) {
      case 1:
        return run_dense_rows<verb, 1, T>(column, data, scratch);
      case 2:
        return run_dense_rows<verb, 2, T>(column, data, scratch);
      case 4:
        return run_dense_rows<verb, 4, T>(column, data, scratch);
      case 8:
        return run_dense_rows<verb, 8, T>(column, data, scratch);
      default:
        break;
    }
  }
  return run_dense_rows<verb, 0, T>(column, data, scratch);
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
