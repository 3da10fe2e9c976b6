// SPDX-License-Identifier: Apache-2.0
// The verbs of a plan on the CPU: find its tables, hand ranges of chunks to torch's threads.
#include "plan.h"

#include <memory>
#include <optional>
#include <vector>

#include "chunk_mirrors.h"
#include "isa.h"
#include "mirror.h"
#include "parallel.h"
#include "plan_call.h"
#include "plan_tables.h"
#include "tensor.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void plan_run(const PlanCall& call, int64_t begin, int64_t end,
                                      void* scratch);)

namespace {

// A verb about to run: its plan, found and kept alive, and the parameters, checked against it.
struct Prepared {
  std::shared_ptr<const PlanTables> plan;
  Addresses addresses;
  PlanCall call{};

  Prepared(const std::vector<Tensor>& tensors, int64_t key, Verb verb)
      : plan(find_plan(key)), addresses(tensors.size()) {
    call.number = check_parameters(*plan, tensors, addresses.data());
    call.verb = verb;
    call.tasks = plan->task_rows();
    call.chunks = plan->chunk_rows();
    call.index = plan->index_pool();
    call.frames = plan->frames.const_data_ptr();
  }
};

// Calls visit(kernel, scratch, begin, end) for ranges of the plan's chunks, by several threads.
template <typename Visit>
void for_ranges(const Prepared& prepared, const Visit& visit) {
  const PlanTables& plan = *prepared.plan;
  if (plan.chunk_count == 0) return;
  const auto kernel = SYMFAST_PICK(plan_run);
  const int64_t bytes = plan.needs.scratch * accumulate_bytes(prepared.call.number) + 64;
  const auto range = [&](int64_t begin, int64_t end) {
    std::unique_ptr<char[]> memory(plan.needs.scratch ? new char[bytes] : nullptr);
    void* scratch = memory.get();
    if (scratch)
      scratch = static_cast<char*>(scratch) + (64 - reinterpret_cast<uintptr_t>(scratch) % 64);
    visit(kernel, scratch, begin, end);
  };
  if (plan.chunk_count <= plan.grain) return range(0, plan.chunk_count);
  parallel_for(0, plan.chunk_count, plan.grain, range);
}

void run(Prepared& prepared) {
  PlanCall& call = prepared.call;
  call.data = prepared.addresses.data();
  for_ranges(prepared, [&](auto kernel, void* scratch, int64_t begin, int64_t end) {
    kernel(call, begin, end, scratch);
  });
}

// Sums of squares of chunks, per mirror; in chunk order: the same sum for any threads.
void add_up(const PlanTables& plan, const double* partial, double* total) {
  const Task* tasks = plan.task_rows();
  const Chunk* chunks = plan.chunk_rows();
  for (int64_t c = 0; c < plan.chunk_count; ++c) {
    const Chunk& chunk = chunks[c];
    const ChunkMirrors touched = chunk_mirrors(tasks[chunk.task], chunk);
    for (int64_t i = 0; i < touched.count; ++i)
      total[touched.first + i * touched.step] += partial[chunk.partial + i];
  }
}

// The same per group; a chunk of one group is added up first, by four sums at a time.
void add_up_groups(const PlanTables& plan, const double* partial, double* total) {
  const Task* tasks = plan.task_rows();
  const Chunk* chunks = plan.chunk_rows();
  for (int64_t c = 0; c < plan.chunk_count; ++c) {
    const Task& task = tasks[chunks[c].task];
    const double* mine = partial + chunks[c].partial;
    const int64_t count = chunk_mirrors(task, chunks[c]).count;
    const ChunkMirrors groups = chunk_groups(task, chunks[c], c, 0).numbers;
    if (mirrors_are_groups(task)) {
      for (int64_t i = 0; i < count; ++i) total[groups.first + i * groups.step] += mine[i];
      continue;
    }
    double sums[4] = {};
    for (int64_t i = 0; i < count; ++i) sums[i % 4] += mine[i];
    total[groups.first] += (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

void plan_check(std::vector<Tensor> tensors, int64_t plan) {
  const Prepared prepared(tensors, plan, kReflect);
}

void plan_apply_(std::vector<Tensor> tensors, int64_t plan, int64_t verb, double amount,
                 std::optional<Tensor> amounts, int64_t amount_index) {
  require_verb(verb);
  Prepared prepared(tensors, plan, static_cast<Verb>(verb));
  prepared.call.amounts = check_amounts(*prepared.plan, amounts, amount_index);
  prepared.call.amount = amount;
  prepared.call.amount_index = static_cast<AmountIndex>(amount_index);
  run(prepared);
}

// Sums of squares by mirror or by group.
Tensor squares(Prepared& prepared, bool by_group) {
  const PlanTables& tables = *prepared.plan;
  const int64_t count = by_group ? tables.groups : tables.mirrors;
  Tensor result = torch::stable::new_zeros(tables.frames, {count}, ScalarType::Double);
  auto* const total = static_cast<double*>(result.mutable_data_ptr());
  if (tables.needs.in_place && !by_group) {
    prepared.call.partial = total;
    run(prepared);
    return result;
  }
  std::vector<double> partial(tables.needs.partials, 0.0);
  prepared.call.partial = partial.data();
  run(prepared);
  (by_group ? add_up_groups : add_up)(tables, partial.data(), total);
  return result;
}

// What the mirrors of a chunk are shrunk by, of sums of squares and for amounts by mirror.
template <typename A>
void find_shrinkages(const PlanTables& plan, int64_t number, const double* sums,
                     const double* thresholds, double threshold, A* amounts) {
  const Chunk& chunk = plan.chunk_rows()[number];
  const Task& task = plan.task_rows()[chunk.task];
  const ChunkMirrors mirrors = chunk_mirrors(task, chunk);
  for (int64_t n = 0; n < mirrors.count; ++n) {
    const int64_t mirror = mirrors.first + n * mirrors.step;
    const double t = thresholds ? thresholds[group_of(task, chunk, n)] : threshold;
    amounts[mirror] = static_cast<A>(group_shrinkage(__builtin_sqrt(sums[mirror]), t));
  }
}

template <typename A>
void prox_group(Prepared& prepared, const double* thresholds, double threshold) {
  const PlanTables& plan = *prepared.plan;
  const auto doubles = [&](int64_t count) {
    return torch::stable::new_zeros(plan.frames, {count}, ScalarType::Double);
  };
  const Tensor partials = doubles(plan.needs.partials);
  const Tensor shrinkages = torch::stable::new_zeros(plan.frames, {plan.mirrors});
  auto* const partial = static_cast<double*>(partials.mutable_data_ptr());
  auto* const amounts = static_cast<A*>(shrinkages.mutable_data_ptr());
  prepared.call.data = prepared.addresses.data();
  PlanCall norms = prepared.call, shrink = prepared.call;
  norms.verb = kNorms;
  norms.partial = partial;
  shrink.verb = kShrink;
  shrink.amounts = amounts;
  shrink.amount_index = kPerMirror;
  const auto find = [&](int64_t chunk, const double* sums) {
    find_shrinkages(plan, chunk, sums, thresholds, threshold, amounts);
  };
  const bool at_once = plan.needs.in_place;  // partial sums are those of mirrors
  for_ranges(prepared, [&](auto kernel, void* scratch, int64_t begin, int64_t end) {
    if (!at_once) return kernel(norms, begin, end, scratch);
    for (int64_t chunk = begin; chunk < end; ++chunk) {  // which is in a cache the second time
      kernel(norms, chunk, chunk + 1, scratch);
      find(chunk, partial);
      kernel(shrink, chunk, chunk + 1, scratch);
    }
  });
  if (at_once) return;
  const Tensor squares = doubles(plan.mirrors);
  auto* const sums = static_cast<double*>(squares.mutable_data_ptr());
  add_up(plan, partial, sums);
  for (int64_t chunk = 0; chunk < plan.chunk_count; ++chunk) find(chunk, sums);
  for_ranges(prepared, [&](auto kernel, void* scratch, int64_t begin, int64_t end) {
    kernel(shrink, begin, end, scratch);
  });
}

void plan_prox_group_(std::vector<Tensor> tensors, int64_t plan, double threshold,
                      std::optional<Tensor> thresholds) {
  Prepared prepared(tensors, plan, kShrink);
  const double* const given = check_thresholds(*prepared.plan, thresholds);
  if (prepared.call.number == Number::f64) {
    prox_group<double>(prepared, given, threshold);
  } else {
    prox_group<float>(prepared, given, threshold);
  }
}

Tensor plan_norms(std::vector<Tensor> tensors, int64_t plan, std::optional<Tensor> before,
                  int64_t per, bool root) {
  Prepared prepared(tensors, plan, kNorms);
  const double* const others = check_before(*prepared.plan, before, per);
  Tensor result = squares(prepared, per == kPerGroup);
  auto* const total = static_cast<double*>(result.mutable_data_ptr());
  const int64_t count = result.numel();
  for (int64_t i = 0; others && i < count; ++i) total[i] += others[i];
  for (int64_t i = 0; root && i < count; ++i) total[i] = __builtin_sqrt(total[i]);
  return result;
}

Tensor plan_coefficients(std::vector<Tensor> tensors, int64_t plan) {
  Prepared prepared(tensors, plan, kCoefficients);
  const PlanTables& tables = *prepared.plan;
  Tensor result = torch::stable::new_zeros(tables.frames, {tables.output});
  prepared.call.out = result.mutable_data_ptr();
  run(prepared);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) {
  m.impl("plan_check", TORCH_BOX(&plan_check));
  m.impl("plan_apply_", TORCH_BOX(&plan_apply_));
  m.impl("plan_prox_group_", TORCH_BOX(&plan_prox_group_));
  m.impl("plan_norms", TORCH_BOX(&plan_norms));
  m.impl("plan_coefficients", TORCH_BOX(&plan_coefficients));
}

}  // namespace symfast
