// SPDX-License-Identifier: Apache-2.0
// One step on lists of parameters on the CPU: check, share the elements out, then one parallel
// loop. With a plan, chunks update their elements and run the verb on them while they are near.
#include <algorithm>
#include <atomic>
#include <optional>

#include "isa.h"
#include "parallel.h"
#include "update_check.h"
#include "update_regions.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void update_span(const UpdateCall& call, const Span& span);
                        void update_dense_columns(const UpdateCall& update, const PlanCall& plan,
                                                  const Chunk& chunk, void* scratch);
                        void plan_run(const PlanCall& call, int64_t begin, int64_t end,
                                      void* scratch);)

namespace {

constexpr int64_t kShare = 32768;  // elements of one piece of work

// A piece of work: spans [first, last), or the chunks [first, last) of a list.
struct Work {
  int64_t first, last;
  bool chunks;
};

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

// A dense frame on adjacent columns, as run_dense (plan_dense_simd.h) tells them.
bool has_dense_columns(const Task& task) {
  return task.kind == kDense && (task.unit_stride != 1 || task.inner != 1) &&
         task.inner_stride == 1;
}

void add_spans(int64_t tensor, int64_t begin, int64_t end, std::vector<Span>& spans) {
  for (int64_t i = begin; i < end;) {
    const int64_t next = (i / kShare + 1) * kShare, stop = next < end ? next : end;
    spans.push_back({tensor, i, stop});
    i = stop;
  }
}

// Neighbouring spans together, until they are worth a share.
void share_out(const std::vector<Span>& spans, std::vector<Work>& work) {
  int64_t first = 0, elements = 0;
  const auto count = static_cast<int64_t>(spans.size());
  for (int64_t i = 0; i < count; ++i) {
    elements += spans[i].end - spans[i].begin;
    if (elements < kShare && i + 1 < count) continue;
    work.push_back({first, i + 1, false});
    first = i + 1;
    elements = 0;
  }
}

class Step {
 public:
  Step(const UpdateCall& call, const Constraint* constraint, std::vector<Span> spans)
      : call_(call),
        constraint_(constraint),
        spans_(std::move(spans)),
        update_(SYMFAST_PICK(update_span)),
        dense_(SYMFAST_PICK(update_dense_columns)),
        verb_(SYMFAST_PICK(plan_run)) {}

  void run() const {
    std::vector<Work> work;
    if (constraint_) {
      const auto chunks = static_cast<int64_t>(constraint_->regions->fused.size());
      const int64_t together = constraint_->plan->grain;
      for (int64_t c = 0; c < chunks; c += together) {
        work.push_back({c, c + together < chunks ? c + together : chunks, true});
      }
    }
    share_out(spans_, work);
    for_all(work, [this](const Work& piece, void* scratch) {
      piece.chunks ? run_fused(piece, scratch) : run_spans(piece);
    });
    if (constraint_) run_late();
  }

 private:
  // Every thread takes the next piece when it is done with one: pieces differ in size, and threads
  // in speed.
  template <typename Run>
  void for_all(const std::vector<Work>& work, const Run& run) const {
    std::atomic<std::size_t> next{0};
    const auto take = [&](int64_t, int64_t) {
      const Scratch scratch(constraint_);
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < work.size();) {
        run(work[i], scratch.get());
      }
    };
    const auto count = static_cast<int64_t>(work.size());
    if (count <= 1) return take(0, 1);
    const int64_t threads = torch::stable::get_num_threads();
    parallel_for(0, std::min(threads, count), 1, take);
  }

  void run_spans(const Work& piece) const {
    for (int64_t i = piece.first; i < piece.last; ++i) update_(call_, spans_[i]);
  }

  // The elements of a chunk, just before the verb.
  static void update_chunk(const void* step, const Chunk& chunk) {
    const Step& self = *static_cast<const Step*>(step);
    const PlanCall& plan = self.constraint_->call;
    const Task& task = plan.tasks[chunk.task];
    walk_region(task, chunk, plan.index, [&](int64_t begin, int64_t end) {
      self.update_(self.call_, {task.tensor, begin, end});
    });
  }

  void run_fused(const Work& piece, void* scratch) const {
    PlanCall plan = constraint_->call;
    plan.before = update_chunk;
    plan.context = this;
    const std::vector<int64_t>& fused = constraint_->regions->fused;
    each_row(fused, piece, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        if (!has_dense_columns(plan.tasks[plan.chunks[c].task])) continue;
        if (begin < c) verb_(plan, begin, c, scratch);
        dense_(call_, plan, plan.chunks[c], scratch);
        begin = c + 1;
      }
      if (begin < end) verb_(plan, begin, end, scratch);
    });
  }

  void run_late() const {
    const std::vector<int64_t>& late = constraint_->regions->late;
    std::vector<Work> work;
    const auto chunks = static_cast<int64_t>(late.size());
    const int64_t together = constraint_->plan->grain;
    for (int64_t c = 0; c < chunks; c += together) {
      work.push_back({c, c + together < chunks ? c + together : chunks, true});
    }
    for_all(work, [&](const Work& piece, void* scratch) {
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
  Step(operands.call(), constraint ? &*constraint : nullptr, std::move(spans)).run();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) { m.impl("update_", TORCH_BOX(&update_)); }

}  // namespace symfast
