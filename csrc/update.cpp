// SPDX-License-Identifier: Apache-2.0
// One step on lists of parameters on the CPU: check, share the elements out, then one parallel
// loop. With a plan, chunks update their elements and run the verb on them while they are near.
#include <algorithm>
#include <deque>
#include <optional>

#include "isa.h"
#include "update_check.h"
#include "update_regions.h"
#include "update_work.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void update_span(const UpdateCall& call, const Span& span);
                        void update_dense_columns(const UpdateCall& update, const PlanCall& plan,
                                                  const Chunk& chunk, void* scratch);
                        void dense_tile_enter(const PlanCall& plan, const DenseTile& tile);
                        void dense_tile_finish(const PlanCall& plan, const DenseTile& tile);
                        void dense_tile_add(const PlanCall& plan, const DenseTile& tile);
                        void plan_run(const PlanCall& call, int64_t begin, int64_t end,
                                      void* scratch);
                        void update_chunks(const UpdateCall& update, const PlanCall& plan,
                                           int64_t begin, int64_t end, void* scratch);)

namespace {

// The verb of a step: a plan and how its chunks are walked.
struct Constraint {
  std::shared_ptr<const PlanTables> plan;
  std::shared_ptr<const Regions> regions;
  PlanCall call{};

  Constraint(int64_t key, int64_t verb, double amount, std::optional<Tensor>& amounts,
             int64_t amount_index)
      : plan(find_plan(key)), regions(regions_of(key, plan)) {
    require_verb(verb);
    call.verb = static_cast<Verb>(verb);
    call.amounts = check_amounts(*plan, amounts, amount_index);
    call.amount = amount;
    call.amount_index = static_cast<AmountIndex>(amount_index);
    call.tasks = plan->task_rows();
    call.chunks = plan->chunk_rows();
    call.index = plan->index_pool();
    call.frames = plan->frames.const_data_ptr();
  }

  int64_t tensors() const {
    int64_t count = 0;
    for (std::size_t at = 0; at < plan->layout.size(); at += 1 + 2 * plan->layout[at]) ++count;
    return count;
  }
};

// Memory of one thread for the plan's kernels, aligned.
class Scratch {
 public:
  explicit Scratch(const Constraint* constraint) {
    if (!constraint || !constraint->plan->needs.scratch) return;
    const int64_t bytes =
        constraint->plan->needs.scratch * accumulate_bytes(constraint->call.number) + 64;
    memory_.reset(new char[static_cast<std::size_t>(bytes)]);
    aligned_ = memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64);
  }
  void* get() const { return aligned_; }

 private:
  std::unique_ptr<char[]> memory_;
  char* aligned_ = nullptr;
};

// AMD's processors ask memory ahead across pages by themselves, and lose up to a tenth to requests
// of ours (Zen 4); Intel's stop at every page.
bool asks_ahead() {
#if defined(__x86_64__)
  static const bool amd = __builtin_cpu_is("amd");
  return !amd;
#else
  return true;
#endif
}

// A dense frame on adjacent columns, as run_dense (plan_dense_simd.h) tells them.
bool has_dense_columns(const Task& task) {
  return task.kind == kDense && (task.unit_stride != 1 || task.inner != 1) &&
         task.inner_stride == 1;
}

// Whether threads share the units of the task's parameter.
bool is_shared(const Task& task) {
  return has_dense_columns(task) && segment_units(task) < task.units;
}

class Step {
 public:
  Step(const UpdateCall& call, const Constraint* constraint, std::vector<Span> spans)
      : call_(call),
        constraint_(constraint),
        spans_(std::move(spans)),
        update_(SYMFAST_PICK(update_span)),
        dense_(SYMFAST_PICK(update_dense_columns)),
        kernels_{SYMFAST_PICK(dense_tile_enter), SYMFAST_PICK(dense_tile_finish),
                 SYMFAST_PICK(dense_tile_add)},
        chunks_(SYMFAST_PICK(update_chunks)),
        verb_(SYMFAST_PICK(plan_run)) {}

  void run() const {
    std::vector<Work> ordered, work;
    std::deque<DenseWalk> walks;
    if (constraint_) add_fused(ordered, work, walks);
    share_out(spans_, work);
    each_piece(ordered, work, [this](const Work& piece, int64_t thread, void* scratch) {
      run_piece(piece, thread, scratch);
    });
    if (constraint_) run_late();
  }

 private:
  template <typename Run>
  void each_piece(const std::vector<Work>& ordered, const std::vector<Work>& work,
                  const Run& run) const {
    for_all(ordered, work, [this] { return Scratch(constraint_); }, run);
  }

  void run_piece(const Work& piece, int64_t thread, void* scratch) const {
    switch (piece.job) {
      case Job::kSpans:
        for (int64_t i = piece.first; i < piece.last; ++i) update_(call_, spans_[i]);
        return;
      case Job::kChunks:
        return run_fused(piece, scratch);
      case Job::kEnter:
        return piece.walk->enter(
            piece.first, thread, [&](const Span& span) { update_(call_, span); }, constraint_->call,
            kernels_);
      case Job::kAdd:
        return piece.walk->add(thread, constraint_->call, kernels_);
    }
  }

  // Chunks by the grain; instead of those of a shared parameter, in order, the segments of a walk
  // and for every thread the way back.
  void add_fused(std::vector<Work>& ordered, std::vector<Work>& work,
                 std::deque<DenseWalk>& walks) const {
    const std::vector<int64_t>& fused = constraint_->regions->fused;
    const PlanCall& plan = constraint_->call;
    const auto task_of = [&](int64_t i) { return plan.chunks[fused[i]].task; };
    const auto count = static_cast<int64_t>(fused.size());
    for (int64_t i = 0; i < count;) {
      const Task& task = plan.tasks[task_of(i)];
      int64_t next = i + 1;
      if (is_shared(task)) {
        while (next < count && task_of(next) == task_of(i)) ++next;
        for (int64_t o = 0; o < task.outer; ++o) {
          DenseWalk& walk = walks.emplace_back(task, o, accumulate_bytes(plan.number));
          for (int64_t s = 0; s < walk.segments(); ++s) {
            ordered.push_back({Job::kEnter, s, 0, &walk});
          }
          const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
          for (int64_t t = 0; t < threads; ++t) ordered.push_back({Job::kAdd, t, 0, &walk});
        }
      } else {
        const int64_t stop = std::min(count, i + constraint_->plan->grain);
        while (next < stop && !is_shared(plan.tasks[task_of(next)])) ++next;
        work.push_back({Job::kChunks, i, next});
      }
      i = next;
    }
  }

  // The elements of a chunk, just before the verb.
  static void update_chunk(const void* step, const Chunk& chunk) {
    const Step& self = *static_cast<const Step*>(step);
    const PlanCall& plan = self.constraint_->call;
    const Task& task = plan.tasks[chunk.task];
    if (const int64_t size = self.constraint_->regions->whole[task.tensor]) {
      return self.update_(self.call_, {task.tensor, 0, size});
    }
    walk_region(task, chunk, plan.index, [&](int64_t begin, int64_t end) {
      self.update_(self.call_, {task.tensor, begin, end});
    });
  }

  // What steps on a chunk and runs its verb.
  enum class Walk { kColumns, kWhole, kChunks };
  Walk walk_of(const Chunk& chunk) const {
    const Task& task = constraint_->call.tasks[chunk.task];
    if (has_dense_columns(task)) return Walk::kColumns;
    return constraint_->regions->whole[task.tensor] ? Walk::kWhole : Walk::kChunks;
  }

  void run_fused(const Work& piece, void* scratch) const {
    PlanCall plan = constraint_->call;
    plan.before = update_chunk;
    plan.context = this;
    each_row(constraint_->regions->fused, piece, [&](int64_t begin, int64_t end) {
      for (int64_t next; begin < end; begin = next) {
        const Walk walk = walk_of(plan.chunks[begin]);
        next = begin + 1;
        while (next < end && walk_of(plan.chunks[next]) == walk) ++next;
        if (walk == Walk::kColumns) {
          for (int64_t c = begin; c < next; ++c) dense_(call_, plan, plan.chunks[c], scratch);
        } else if (walk == Walk::kWhole) {
          verb_(plan, begin, next, scratch);
        } else {
          chunks_(call_, plan, begin, next, scratch);
        }
      }
    });
  }

  void run_late() const {
    const std::vector<int64_t>& late = constraint_->regions->late;
    std::vector<Work> work;
    const auto chunks = static_cast<int64_t>(late.size());
    const int64_t together = constraint_->plan->grain;
    for (int64_t c = 0; c < chunks; c += together) {
      work.push_back({Job::kChunks, c, std::min(c + together, chunks)});
    }
    each_piece({}, work, [&](const Work& piece, int64_t, void* scratch) {
      each_row(late, piece,
               [&](int64_t begin, int64_t end) { verb_(constraint_->call, begin, end, scratch); });
    });
  }

  // Calls run(begin, end) for the chunks of a piece that follow each other: they share their task's
  // tables.
  template <typename Run>
  static void each_row(const std::vector<int64_t>& chunks, const Work& piece, const Run& run) {
    for (int64_t i = piece.first; i < piece.last;) {
      int64_t next = i + 1;
      while (next < piece.last && chunks[next] == chunks[next - 1] + 1) ++next;
      run(chunks[i], chunks[next - 1] + 1);
      i = next;
    }
  }

  const UpdateCall& call_;
  const Constraint* constraint_;
  const std::vector<Span> spans_;
  void (*update_)(const UpdateCall&, const Span&);
  void (*dense_)(const UpdateCall&, const PlanCall&, const Chunk&, void*);
  const DenseKernels kernels_;
  void (*chunks_)(const UpdateCall&, const PlanCall&, int64_t, int64_t, void*);
  void (*verb_)(const PlanCall&, int64_t, int64_t, void*);
};

void update_(int64_t rule, std::vector<Tensor> params, std::vector<Tensor> grads,
             std::vector<Tensor> first, std::vector<Tensor> second, std::vector<Tensor> steps,
             Tensor settings, Tensor keys, std::optional<Tensor> grad_scale,
             std::optional<Tensor> found_inf, int64_t plan, int64_t verb, double amount,
             std::optional<Tensor> amounts, int64_t amount_index) {
  UpdateOperands operands(rule, params, grads, first, second, steps);
  if (params.empty()) return;
  std::optional<Constraint> constraint;
  int64_t planned = 0;
  if (plan) {
    constraint.emplace(plan, verb, amount, amounts, amount_index);
    planned = constraint->tensors();
    require(planned <= static_cast<int64_t>(params.size()),
            "the plan has more parameters than the step");
    const std::vector<Tensor> owned(params.begin(), params.begin() + planned);
    constraint->call.number = check_parameters(*constraint->plan, owned, operands.parameters());
    constraint->call.data = operands.parameters();
  }
  const double inf = host_number(found_inf, 0, "found_inf");
  const double scale = host_number(grad_scale, 1, "grad_scale");
  operands.read_host(settings, keys, scale);
  if (inf != 0) return;
  operands.count_steps();
  std::vector<Span> spans;
  if (constraint) {
    for (const Span& s : constraint->regions->plain) add_spans(s.tensor, s.begin, s.end, spans);
  }
  for (int64_t t = planned; t < operands.count(); ++t) add_spans(t, 0, params[t].numel(), spans);
  UpdateCall call = operands.call();
  call.asks_ahead = asks_ahead();
  Step(call, constraint ? &*constraint : nullptr, std::move(spans)).run();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) { m.impl("update_", TORCH_BOX(&update_)); }

}  // namespace symfast
