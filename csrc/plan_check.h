// SPDX-License-Identifier: Apache-2.0
// Checks of a plan's tables before a kernel trusts them: every access stays inside its tensor, its
// pool and its output. Tables normally come from symfast/tables.py; the operators accept any.
#pragma once
#include <vector>

#include "tensor.h"

namespace symfast {

// One past the last element a tensor can reach from its data pointer.
inline int64_t reach_of(const Tensor& tensor) {
  int64_t reach = 1;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) == 0) return 0;
    reach += (tensor.size(d) - 1) * tensor.stride(d);
  }
  return reach;
}

// Tensors still have the sizes and strides that the plan was made for, and one type and device.
inline void check_layout(const std::vector<Tensor>& tensors, const Tensor& layout,
                         const Tensor& frames) {
  require_table(layout, ScalarType::Long, "int64", "layout");
  require(layout.dim() == 1, "layout must have one dim, got ", sizes_of(layout));
  const auto* expected = static_cast<const int64_t*>(layout.const_data_ptr());
  const int64_t length = layout.numel();
  int64_t at = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    const int64_t dims = tensor.dim();
    bool same = at < length && expected[at] == dims && at + 2 * dims < length;
    for (int64_t d = 0; same && d < dims; ++d) {
      same =
          expected[at + 1 + d] == tensor.size(d) && expected[at + 1 + dims + d] == tensor.stride(d);
    }
    require(same, "parameter ", i, " of the plan now has sizes ", sizes_of(tensor),
            ", other sizes or strides than when the plan was made; make a new plan");
    require(tensor.scalar_type() == tensors[0].scalar_type() &&
                accumulate_type(number_of(tensor, "a parameter of a plan")) == frames.scalar_type(),
            "parameter ", i, " of the plan changed its dtype; make a new plan");
    require(tensor.get_device_index() == frames.get_device_index() &&
                tensor.is_cpu() == frames.is_cpu(),
            "parameter ", i,
            " of the plan is on another device than the plan; call plan.to(device)");
    at += 1 + 2 * dims;
  }
  require(at == length, "the plan was made for another number of parameters; make a new plan");
}

class TableCheck {
 public:
  TableCheck(const PlanCall& call, std::vector<int64_t> reach, int64_t tasks, int64_t chunks,
             int64_t index, int64_t frames)
      : call_(call),
        reach_(std::move(reach)),
        tasks_(tasks),
        chunks_(chunks),
        index_(index),
        frames_(frames) {}

  // Amounts: how many there are. Output: coefficients or partial sums; mirrors: norms.
  int64_t amounts = 0, output = 0, mirrors = 0;

  void run() {
    for (int64_t t = 0; t < tasks_; ++t) check_task(t, call_.tasks[t]);
    covered_.assign(tasks_, 0);
    for (int64_t c = 0; c < chunks_; ++c) check_chunk(c, call_.chunks[c]);
    for (int64_t t = 0; t < tasks_; ++t) {
      const Task& task = call_.tasks[t];
      const int64_t mirrors = task.kind == kDense ? 1 : mirrors_of_[t];
      require(covered_[t] == task.outer * task.inner * mirrors, "the chunks of task ", t,
              " of the plan do not cover it once");
    }
  }

  int64_t scratch() const { return scratch_; }
  int64_t partials() const { return partials_; }

 private:
  // size - 1 steps of a stride; the largest offset is their sum. Refuses negative and huge ones.
  int64_t span(int64_t size, int64_t stride, int64_t t) const {
    constexpr int64_t kHuge = int64_t{1} << 47;
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
    const bool plain = task.mirror_step == 0 && task.group_step == 0 && task.frame_step == 0;
    require(task.kind == kDense ? task.mirror_column_step == 0 ||
                                      (task.mirror_column_step == 1 && task.mirror_step == 0)
                                : plain && task.mirror_column_step == 0,
            "task ", t, " of the plan has steps that do not go with its kind");
    rows_ = task.kind == kDense ? check_dense(t, task) : check_index(t, task);
    check_numbering(t, task);
    const int64_t need = scratch_numbers(task);
    scratch_ = need > scratch_ ? need : scratch_;
    mirrors_of_.push_back(task.kind == kDense ? INT64_MAX : mirrors_);  // dense chunks have none
  }

  int64_t check_dense(int64_t t, const Task& task) {
    const int64_t size = span(task.count + 1, task.units, t);
    const int64_t last = span(task.pool + 1, 1, t) + span(task.outer, task.frame_step, t) + size;
    require(last <= frames_, "task ", t, " of the plan reaches outside the frames");
    mirrors_ = task.mirror_column_step ? task.count : 1;
    return task.count;
  }

  // Returns the number of coefficient rows; leaves the number of mirrors in mirrors_.
  int64_t check_index(int64_t t, const Task& task) {
    const bool runs = task.kind == kRows || task.kind == kPairs;
    const int64_t words = runs ? 4 : 1;
    require(task.pool <= index_ && task.count <= (index_ - task.pool) / words, "task ", t,
            " of the plan reaches outside the index");
    const int64_t* pool = call_.index + task.pool;
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
      require(run[3] == mirrors_, "task ", t, " of the plan numbers its mirrors out of order");
      mirrors_ += length;
    }
    return mirrors_;
  }

  int64_t check_clusters(int64_t t, const Task& task, const int64_t* pool) {
    require(task.count < index_ - task.pool, "task ", t, " of the plan reaches outside the index");
    const int64_t members = index_ - task.pool - task.count - 1;
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
  void check_numbering(int64_t t, const Task& task) const {
    const int64_t last_mirror =
        span(task.mirror + 1, 1, t) + span(task.outer, task.mirror_step, t) +
        (task.kind == kDense ? span(task.count, task.mirror_column_step, t) : span(mirrors_, 1, t));
    const int64_t last_group = span(task.group + 1, 1, t) + span(task.outer, task.group_step, t);
    require(task.mirror >= 0 && task.group >= 0, "task ", t, " of the plan has a negative number");
    if (mirrors_ == 0) return;  // no coefficient, nothing is read or written
    if (call_.amount_index != kUniform) {
      const int64_t last = call_.amount_index == kPerGroup ? last_group : last_mirror;
      require(last < amounts, "there are ", amounts, " amounts, but task ", t, " needs more");
    }
    if (call_.verb == kNorms) {
      require(last_mirror < mirrors, "there are ", mirrors, " mirrors, but task ", t, " has more");
    }
    if (call_.verb == kCoefficients && rows_ > 0 && task.outer > 0 && task.inner > 0) {
      const int64_t last = span(task.out + 1, 1, t) + span(task.outer, task.out_outer, t) +
                           span(task.inner, task.out_inner, t) + span(rows_, task.out_row, t);
      require(task.out >= 0 && last < output, "task ", t, " of the plan writes outside the output");
    }
  }

  // Chunks are listed by task, then in the order of memory; no start comes twice.
  static bool follows(const Chunk& chunk, const Chunk& before) {
    if (chunk.task != before.task) return chunk.task > before.task;
    if (chunk.o0 != before.o0) return chunk.o0 > before.o0;
    if (chunk.k0 != before.k0) return chunk.k0 > before.k0;
    return chunk.c0 > before.c0;
  }

  void check_chunk(int64_t c, const Chunk& chunk) {
    require(chunk.task >= 0 && chunk.task < tasks_, "chunk ", c, " of the plan names no task");
    const Task& task = call_.tasks[chunk.task];
    require(chunk.o0 >= 0 && chunk.o0 <= chunk.o1 && chunk.o1 <= task.outer && chunk.c0 >= 0 &&
                chunk.c0 <= chunk.c1 && chunk.c1 <= task.inner && chunk.k0 >= 0 &&
                (task.kind == kDense || chunk.k0 <= chunk.k1) && chunk.first >= 0 &&
                chunk.k1 <= mirrors_of_[chunk.task],
            "chunk ", c, " of the plan reaches outside its task");
    const bool runs = task.kind == kRows || task.kind == kPairs;
    if (runs && chunk.k0 < chunk.k1 && chunk.o0 < chunk.o1) {
      require(chunk.first < task.count && call_.index[task.pool + 4 * chunk.first + 3] <= chunk.k0,
              "chunk ", c, " of the plan starts at a wrong run");
    }
    require(c == 0 || follows(chunk, call_.chunks[c - 1]), "chunk ", c,
            " of the plan is out of order");
    covered_[chunk.task] += (chunk.o1 - chunk.o0) * (chunk.c1 - chunk.c0) *
                            (task.kind == kDense ? 1 : chunk.k1 - chunk.k0);
    const int64_t size = chunk_mirrors(task, chunk);
    require(size >= 0 && chunk.partial == partials_, "chunk ", c,
            " of the plan has its sums in the wrong place");
    partials_ += size;
  }

 public:
  // Sums of squares a chunk produces.
  static int64_t chunk_mirrors(const Task& task, const Chunk& chunk) {
    if (task.kind != kDense) return chunk.k1 - chunk.k0;
    return task.mirror_column_step ? task.count : task.mirror_step ? chunk.o1 - chunk.o0 : 1;
  }

 private:
  const PlanCall& call_;
  std::vector<int64_t> reach_;
  const int64_t tasks_, chunks_, index_, frames_;
  std::vector<int64_t> mirrors_of_, covered_;
  int64_t rows_ = 0, mirrors_ = 0, scratch_ = 0, partials_ = 0;
};

}  // namespace symfast
