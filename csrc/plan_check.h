// SPDX-License-Identifier: Apache-2.0
// The check of a plan's tables before kernels trust them: every access stays inside its parameter,
// its pool and its output. Tables normally come from symfast/tables.py; plan_store accepts any.
#pragma once
#include <algorithm>
#include <vector>

#include "chunk_mirrors.h"
#include "tensor.h"

namespace symfast {

// Tables as plain pointers, and the sizes a plan promises.
struct TableView {
  const Task* tasks;
  int64_t task_count;
  const Chunk* chunks;
  int64_t chunk_count;
  const int64_t* index;
  int64_t index_count, frame_count;
  int64_t mirrors, groups, output;  // lengths of the norms, and of the coefficients
};

// What a call has to bring: so many amounts by group or by mirror, numbers of workspace, partial
// sums for norms, and on a GPU room for rows of so many gathered units.
struct PlanNeeds {
  int64_t groups = 0, mirrors = 0, scratch = 0, partials = 0, gathered = 0;
  bool in_place = true;  // every mirror has one partial sum, where the norms have it
  bool dense = false;    // there are dense frames
};

// Larger sizes are mistakes; sums and products of those below stay inside __int128.
constexpr int64_t kHuge = int64_t{1} << 47;

// One past the last element every parameter of a layout can reach from its data pointer.
inline std::vector<int64_t> reaches_of(const std::vector<int64_t>& layout) {
  std::vector<int64_t> reaches;
  const auto length = static_cast<int64_t>(layout.size());
  for (int64_t at = 0; at < length;) {
    const int64_t dims = layout[at];
    const bool fits = dims >= 0 && dims <= (length - at - 1) / 2;
    require(fits, "the layout of parameter ", reaches.size(), " of the plan is malformed");
    __int128 last = 0;
    bool empty = false;
    for (int64_t d = at + 1; d <= at + dims; ++d) {
      const int64_t size = layout[d], stride = layout[d + dims];
      require(size >= 0 && stride >= 0, "parameter ", reaches.size(),
              " of the plan has a negative size or stride");
      empty = empty || size == 0;
      last += static_cast<__int128>(size > 0 ? size - 1 : 0) * stride;
      if (last > kHuge) last = kHuge;
    }
    reaches.push_back(empty ? 0 : static_cast<int64_t>(last) + 1);
    at += 1 + 2 * dims;
  }
  return reaches;
}

class TableCheck {
 public:
  TableCheck(const TableView& view, std::vector<int64_t> reach)
      : view_(view), reach_(std::move(reach)) {}

  PlanNeeds run() {
    for (int64_t t = 0; t < view_.task_count; ++t) check_task(t, view_.tasks[t]);
    covered_.assign(view_.task_count, 0);
    for (int64_t c = 0; c < view_.chunk_count; ++c) check_chunk(c, view_.chunks[c]);
    for (int64_t t = 0; t < view_.task_count; ++t) {
      require(covered_[t] == whole(t), "the chunks of task ", t,
              " of the plan do not cover it once");
    }
    needs_.in_place = needs_.in_place && needs_.partials == view_.mirrors;
    return needs_;
  }

 private:
  // size - 1 steps of a stride; the largest offset is their sum. Refuses negative and huge ones.
  int64_t span(int64_t size, int64_t stride, int64_t t) const {
    require(size >= 0 && stride >= 0 && size < kHuge && stride < kHuge, "task ", t,
            " of the plan has a negative or huge size or stride");
    const __int128 last = static_cast<__int128>(size > 0 ? size - 1 : 0) * stride;
    require(last < kHuge, "task ", t, " of the plan reaches beyond any memory");
    return static_cast<int64_t>(last);
  }

  void check_task(int64_t t, const Task& task) {
    require(task.kind >= kRows && task.kind <= kPairsScattered, "task ", t,
            " of the plan has kind ", task.kind, ", which does not exist");
    require(task.tensor >= 0 && task.tensor < static_cast<int64_t>(reach_.size()), "task ", t,
            " of the plan names parameter ", task.tensor, " of ", reach_.size());
    const int64_t last = span(task.base + 1, 1, t) + span(task.outer, task.outer_stride, t) +
                         span(task.units, task.unit_stride, t) +
                         span(task.inner, task.inner_stride, t);
    require(task.base >= 0 && last < reach_[task.tensor] && task.units > 0, "task ", t,
            " of the plan reaches outside its parameter");
    require(task.count >= 0 && task.pool >= 0, "task ", t, " of the plan has a negative frame");
    const bool plain = task.mirror_step == 0 && task.group_step == 0 && task.frame_step == 0 &&
                       task.frame_row == 0;
    require(task.kind == kDense ? task.mirror_column_step == 0 ||
                                      (task.mirror_column_step == 1 && task.mirror_step == 0)
                                : plain && task.mirror_column_step == 0,
            "task ", t, " of the plan has steps that do not go with its kind");
    require(task.group_step == 0 || task.mirror_step > 0, "task ", t,
            " of the plan has groups that share a mirror");
    if (task.kind == kDense) needs_.dense = true;
    rows_ = task.kind == kDense ? check_dense(t, task) : check_index(t, task);
    const __int128 columns = static_cast<__int128>(task.outer) * task.inner;
    require(columns < kHuge && columns * mirrors_ < kHuge, "task ", t,
            " of the plan has more elements than any memory");
    check_numbering(t, task);
    needs_.scratch = std::max(needs_.scratch, scratch_numbers(task));
    if (is_gathered(task)) needs_.gathered = std::max(needs_.gathered, task.units);
    mirrors_of_.push_back(task.kind == kDense ? INT64_MAX : mirrors_);  // dense chunks have none
  }

  int64_t check_dense(int64_t t, const Task& task) {
    require(task.frame_row >= task.units, "task ", t, " of the plan has frame rows that overlap");
    const int64_t size = span(task.count, task.frame_row, t) + (task.count > 0 ? task.units : 0);
    const int64_t last = span(task.pool + 1, 1, t) + span(task.outer, task.frame_step, t) + size;
    require(last <= view_.frame_count, "task ", t, " of the plan reaches outside the frames");
    mirrors_ = task.mirror_column_step ? task.count : 1;
    return task.count;
  }

  // Returns the number of coefficient rows; leaves the number of mirrors in mirrors_.
  int64_t check_index(int64_t t, const Task& task) {
    const bool runs = task.kind == kRows || task.kind == kPairs;
    const int64_t words = runs ? 4 : 1;
    require(task.pool <= view_.index_count && task.count <= (view_.index_count - task.pool) / words,
            "task ", t, " of the plan reaches outside the index");
    const int64_t* pool = view_.index + task.pool;
    if (task.kind == kClusters) return check_clusters(t, task, pool);
    mirrors_ = 0;
    if (!runs) {
      for (int64_t i = 0; i < task.count; ++i) {
        const int64_t a = pool[i] & 0xffffffff, b = pool[i] >> 32;
        require(a < task.units && b >= 0 && b < task.units, "task ", t,
                " of the plan names a unit that does not exist");
      }
      return mirrors_ = task.count;
    }
    for (int64_t i = 0; i < task.count; ++i) {
      const int64_t *run = pool + 4 * i, length = run[2];
      require(run[0] >= 0 && run[1] >= 0 && length > 0 && length <= task.units &&
                  run[0] <= task.units - length && run[1] <= task.units - length,
              "task ", t, " of the plan names a unit that does not exist");
      require(run[3] == mirrors_ && mirrors_ < kHuge, "task ", t,
              " of the plan numbers its mirrors out of order");
      mirrors_ += length;
    }
    return mirrors_;
  }

  int64_t check_clusters(int64_t t, const Task& task, const int64_t* pool) {
    require(task.count < view_.index_count - task.pool, "task ", t,
            " of the plan reaches outside the index");
    const int64_t members = view_.index_count - task.pool - task.count - 1;
    require(pool[0] == 0 && pool[task.count] <= members, "task ", t,
            " of the plan reaches outside the index");
    for (int64_t q = 0; q < task.count; ++q) {
      // at most as many members as units: the workspace is made for that
      require(
          pool[q + 1] > pool[q] && pool[q + 1] - pool[q] <= task.units && pool[q + 1] <= members,
          "cluster ", q, " of task ", t, " of the plan has a wrong number of members");
      for (int64_t i = pool[q]; i < pool[q + 1]; ++i) {
        const int64_t unit = pool[task.count + 1 + i];
        require(unit >= 0 && unit < task.units, "task ", t,
                " of the plan names a unit that does not exist");
      }
    }
    mirrors_ = task.count;
    return pool[task.count] - task.count;
  }

  // Group, mirror and output numbers of every coefficient exist.
  void check_numbering(int64_t t, const Task& task) {
    const int64_t last_mirror =
        span(task.mirror + 1, 1, t) + span(task.outer, task.mirror_step, t) +
        (task.kind == kDense ? span(task.count, task.mirror_column_step, t) : span(mirrors_, 1, t));
    const int64_t last_group = span(task.group + 1, 1, t) + span(task.outer, task.group_step, t);
    require(task.mirror >= 0 && task.group >= 0, "task ", t, " of the plan has a negative number");
    const int64_t last = span(task.out + 1, 1, t) + span(task.outer, task.out_outer, t) +
                         span(task.inner, task.out_inner, t) + span(rows_, task.out_row, t);
    require(task.out >= 0, "task ", t, " of the plan writes outside the output");
    // Also of no mirrors: their norm is zero.
    require(last_group < view_.groups, "there are ", view_.groups, " groups, but task ", t,
            " has more");
    if (mirrors_ == 0) return;  // no coefficient, nothing is read or written
    needs_.groups = std::max(needs_.groups, last_group + 1);
    needs_.mirrors = std::max(needs_.mirrors, last_mirror + 1);
    require(last_mirror < view_.mirrors, "there are ", view_.mirrors, " mirrors, but task ", t,
            " has more");
    const bool empty = rows_ == 0 || task.outer == 0 || task.inner == 0;
    require(empty || last < view_.output, "task ", t, " of the plan writes outside the output");
  }

  // Chunks are listed by task, then in the order of memory; no start comes twice.
  static bool follows(const Chunk& chunk, const Chunk& before) {
    if (chunk.task != before.task) return chunk.task > before.task;
    if (chunk.o0 != before.o0) return chunk.o0 > before.o0;
    if (chunk.k0 != before.k0) return chunk.k0 > before.k0;
    return chunk.c0 > before.c0;
  }

  // What the chunks of a task add up to.
  int64_t whole(int64_t t) const {
    const Task& task = view_.tasks[t];
    return task.outer * task.inner * (task.kind == kDense ? 1 : mirrors_of_[t]);
  }

  void check_chunk(int64_t c, const Chunk& chunk) {
    require(chunk.task >= 0 && chunk.task < view_.task_count, "chunk ", c,
            " of the plan names no task");
    const Task& task = view_.tasks[chunk.task];
    require(chunk.o0 >= 0 && chunk.o0 <= chunk.o1 && chunk.o1 <= task.outer && chunk.c0 >= 0 &&
                chunk.c0 <= chunk.c1 && chunk.c1 <= task.inner && chunk.k0 >= 0 &&
                (task.kind == kDense || chunk.k0 <= chunk.k1) && chunk.first >= 0 &&
                chunk.k1 <= mirrors_of_[chunk.task],
            "chunk ", c, " of the plan reaches outside its task");
    const bool runs = task.kind == kRows || task.kind == kPairs;
    if (runs && chunk.k0 < chunk.k1 && chunk.o0 < chunk.o1) {
      require(chunk.first < task.count && view_.index[task.pool + 4 * chunk.first + 3] <= chunk.k0,
              "chunk ", c, " of the plan starts at a wrong run");
    }
    require(c == 0 || follows(chunk, view_.chunks[c - 1]), "chunk ", c,
            " of the plan is out of order");
    covered_[chunk.task] += (chunk.o1 - chunk.o0) * (chunk.c1 - chunk.c0) *
                            (task.kind == kDense ? 1 : chunk.k1 - chunk.k0);
    require(covered_[chunk.task] <= whole(chunk.task), "the chunks of task ", chunk.task,
            " of the plan do not cover it once");
    const ChunkMirrors touched = chunk_mirrors(task, chunk);
    require(touched.count >= 0 && chunk.partial == needs_.partials && chunk.partial < kHuge,
            "chunk ", c, " of the plan has its sums in the wrong place");
    needs_.in_place = needs_.in_place && touched.in_place(chunk.partial);
    needs_.partials += touched.count;
  }

  const TableView view_;
  const std::vector<int64_t> reach_;
  std::vector<int64_t> mirrors_of_, covered_;
  int64_t rows_ = 0, mirrors_ = 0;
  PlanNeeds needs_;
};

}  // namespace symfast
