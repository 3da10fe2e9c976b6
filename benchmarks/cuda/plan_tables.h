// SPDX-License-Identifier: Apache-2.0
// The tables of the driver's plans: one of each kind of frame on contiguous (outer, units, inner)
// tensors, cut into chunks as symfast/chunks.py cuts them for a GPU.
#pragma once
#include <algorithm>

#include "chunk_mirrors.h"
#include "device_memory.h"
#include "plan_reference.h"

namespace symfast {

// What a plan does: the kind of its frames on a tensor (outer, units, inner).
struct PlanShape {
  const char* name;
  Kind kind;
  int64_t outer, units, inner;
  int64_t rows;  // dense: of A^T
  bool own;      // dense: a frame for every outer index
};

constexpr int64_t kClusterSize = 4;

inline bool is_pair(const Task& task) {
  return task.kind == kPairs || task.kind == kPairsScattered;
}

// Mirrors that share one column of memory, and units that one of them touches.
inline int64_t mirrors_of(const Task& task) {
  if (task.kind == kDense || task.kind == kClusters) return task.count;
  return is_pair(task) ? task.units / 2 : task.units;
}
inline int64_t members_of(const Task& task) {
  return is_pair(task) ? mirrors_of(task) * 2 : task.units;
}

// Sizes of the parts of a task along mirrors, outer indices and columns.
struct Cut {
  int64_t mirrors, outer, columns;
};

inline Cut cut_of(const Task& task) {
  constexpr int64_t kElements = 16384, kRowsEach = 16, kColumns = 64;
  const int64_t mirrors = mirrors_of(task), members = members_of(task);
  const int64_t per_outer = members * task.inner;
  const bool dense = task.kind == kDense;
  if (per_outer * task.outer <= kElements) return {mirrors, task.outer, task.inner};
  if (task.unit_stride == 1 && task.inner == 1 && !dense && task.outer > 1) {
    const int64_t rows = std::max<int64_t>(1, kElements / per_outer / kRowsEach) * kRowsEach;
    return {mirrors, rows, 1};
  }
  if (per_outer <= kElements) {
    const int64_t height = std::max<int64_t>(1, kElements / per_outer);
    if (!dense || task.unit_stride != 1 || task.frame_step != 0) {
      return {mirrors, height, task.inner};
    }
    const int64_t rows = std::max<int64_t>(1, std::min(task.outer / 16, 8 * height) / 12) * 12;
    return {mirrors, rows, task.inner};
  }
  if (dense) return {mirrors, 1, std::max(kColumns, kElements / members / 64 * 64)};
  const int64_t per_mirror = members / mirrors * task.inner;
  if (per_mirror <= kElements) return {kElements / per_mirror, 1, task.inner};
  const int64_t columns = kElements * task.inner / per_mirror / 64 * 64;
  return {1, 1, std::max<int64_t>(64, columns)};
}

inline int64_t first_run(const HostPlan& plan, const Task& task, int64_t k0) {
  if (task.kind != kRows && task.kind != kPairs) return 0;
  int64_t run = 0;
  while (run + 1 < task.count &&
         plan.index[static_cast<std::size_t>(task.pool + 4 * run + 7)] <= k0) {
    ++run;
  }
  return run;
}

inline void cut_task(HostPlan& plan, int64_t number) {
  const Task& task = plan.tasks[static_cast<std::size_t>(number)];
  const Cut cut = cut_of(task);
  const int64_t mirrors = task.kind == kDense ? 1 : mirrors_of(task);
  for (int64_t o = 0; o < task.outer; o += cut.outer) {
    for (int64_t k = 0; k < mirrors; k += cut.mirrors) {
      for (int64_t c = 0; c < task.inner; c += cut.columns) {
        const Chunk chunk{number,
                          first_run(plan, task, k),
                          k,
                          std::min(k + cut.mirrors, mirrors),
                          o,
                          std::min(o + cut.outer, task.outer),
                          c,
                          std::min(c + cut.columns, task.inner),
                          plan.partials};
        const ChunkMirrors touched = chunk_mirrors(task, chunk);
        plan.in_place = plan.in_place && touched.in_place(plan.partials);
        plan.partials += touched.count;
        plan.chunks.push_back(chunk);
      }
    }
  }
}

// Units in an order that is not the order of memory.
inline int64_t shuffled(int64_t i, int64_t units) { return i * 7919 % units; }

// Fills in pool and count of a task whose frames are in the index pool.
inline void add_index(HostPlan& plan, Task& task) {
  std::vector<int64_t>& pool = plan.index;
  const int64_t units = task.units, half = units / 2;
  task.pool = static_cast<int64_t>(pool.size());
  if (task.kind == kRows) {
    task.count = 2;
    for (const int64_t word : {int64_t{0}, int64_t{0}, half, int64_t{0}}) pool.push_back(word);
    for (const int64_t word : {half, half, units - half, half}) pool.push_back(word);
  } else if (task.kind == kPairs) {
    task.count = 1;
    for (const int64_t word : {int64_t{0}, half, half, int64_t{0}}) pool.push_back(word);
  } else if (task.kind == kClusters) {
    task.count = units / kClusterSize;
    for (int64_t q = 0; q <= task.count; ++q) pool.push_back(q * kClusterSize);
    pool.back() = units;  // the last one takes what is left
    for (int64_t i = 0; i < units; ++i) pool.push_back(shuffled(i, units));
  } else {
    task.count = is_pair(task) ? half : units;
    for (int64_t n = 0; n < task.count; ++n) {
      const int64_t a = shuffled(n, units), b = shuffled(is_pair(task) ? n + half : n, units);
      pool.push_back(a | b << 32);
    }
  }
}

// Rows of A^T made orthonormal, one after the other; `exact` only where results are compared.
inline void add_frames(HostPlan& plan, Task& task, const PlanShape& shape, bool exact) {
  task.count = shape.rows;
  task.frame_row = (task.units + 7) / 8 * 8;
  task.frame_step = shape.own ? task.frame_row * shape.rows : 0;
  const int64_t count = shape.own ? shape.outer : 1;
  plan.frames = Random(7).many(count * shape.rows * task.frame_row);
  const double scale = 1 / std::sqrt(static_cast<double>(task.units));
  if (!exact) {
    for (double& x : plan.frames) x *= scale;
    return;
  }
  for (int64_t row = 0; row < count * shape.rows; ++row) {
    double* a = plan.frames.data() + row * task.frame_row;
    for (const double* b = a - row % shape.rows * task.frame_row; b <= a; b += task.frame_row) {
      double dot = 0;
      for (int64_t i = 0; i < task.units; ++i) dot += a[i] * b[i];
      for (int64_t i = 0; i < task.units; ++i) {
        a[i] = b == a ? a[i] / std::sqrt(dot) : a[i] - dot * b[i];
      }
    }
    for (int64_t i = task.units; i < task.frame_row; ++i) a[i] = NAN;  // never to be used
  }
}

// Adds a task with a tensor of its own.
inline void add_task(HostPlan& plan, const PlanShape& shape, bool exact) {
  Task task{};
  task.kind = shape.kind;
  task.tensor = static_cast<int64_t>(plan.sizes.size());
  task.outer = shape.outer;
  task.outer_stride = shape.units * shape.inner;
  task.units = shape.units;
  task.unit_stride = shape.inner;
  task.inner = shape.inner;
  task.inner_stride = 1;
  if (task.kind == kDense) {
    add_frames(plan, task, shape, exact);
  } else {
    add_index(plan, task);
  }
  const bool by_outer = task.kind == kDense && shape.own;
  task.mirror = plan.mirrors;
  task.mirror_step = by_outer ? 1 : 0;
  task.mirror_column_step = by_outer ? 0 : 1;
  plan.mirrors += by_outer ? task.outer : mirrors_of(task);
  const int64_t rows = task.kind == kDense      ? task.count
                       : task.kind == kClusters ? task.units - task.count
                                                : mirrors_of(task);
  task.out = plan.output;
  task.out_row = task.outer * task.inner;
  task.out_outer = task.inner;
  task.out_inner = 1;
  plan.output += rows * task.out_row;
  plan.sizes.push_back(task.outer * task.units * task.inner);
  plan.touched += static_cast<double>(members_of(task) * task.outer * task.inner);
  plan.tasks.push_back(task);
  cut_task(plan, static_cast<int64_t>(plan.tasks.size()) - 1);
}

}  // namespace symfast
