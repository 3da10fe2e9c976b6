// SPDX-License-Identifier: Apache-2.0
// The verbs of a plan on the CPU: find its tables, hand ranges of chunks to torch's threads.
#include "plan.h"

#include <memory>
#include <optional>
#include <vector>

#include "chunk_mirrors.h"
#include "isa.h"
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

void run(Prepared& prepared) {
  const PlanTables& plan = *prepared.plan;
  if (plan.chunk_count == 0) return;
  PlanCall& call = prepared.call;
  call.data = prepared.addresses.data();
  const auto kernel = SYMFAST_PICK(plan_run);
  const int64_t bytes = plan.needs.scratch * accumulate_bytes(call.number) + 64;
  const auto range = [&](int64_t begin, int64_t end) {
    std::unique_ptr<char[]> memory(plan.needs.scratch ? new char[bytes] : nullptr);
    void* scratch = memory.get();
    if (scratch)
      scratch = static_cast<char*>(scratch) + (64 - reinterpret_cast<uintptr_t>(scratch) % 64);
    kernel(call, begin, end, scratch);
  };
  if (plan.chunk_count <= plan.grain) return range(0, plan.chunk_count);
  parallel_for(0, plan.chunk_count, plan.grain, range);
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

Tensor plan_norms(std::vector<Tensor> tensors, int64_t plan) {
  Prepared prepared(tensors, plan, kNorms);
  const PlanTables& tables = *prepared.plan;
  Tensor result = torch::stable::new_zeros(tables.frames, {tables.mirrors}, ScalarType::Double);
  auto* const total = static_cast<double*>(result.mutable_data_ptr());
  if (tables.needs.in_place) {
    prepared.call.partial = total;
    run(prepared);
    return result;
  }
  std::vector<double> partial(tables.needs.partials, 0.0);
  prepared.call.partial = partial.data();
  run(prepared);
  add_up(tables, partial.data(), total);
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
  m.impl("plan_norms", TORCH_BOX(&plan_norms));
  m.impl("plan_coefficients", TORCH_BOX(&plan_coefficients));
}

}  // namespace symfast
