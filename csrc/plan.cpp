// SPDX-License-Identifier: Apache-2.0
// The verbs of a plan on the CPU: check, then hand ranges of chunks to torch's threads.
#include "plan.h"

#include <memory>
#include <optional>
#include <vector>

#include "isa.h"
#include "plan_call.h"
#include "plan_check.h"
#include "tensor.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void plan_run(const PlanCall& call, int64_t begin, int64_t end,
                                      void* scratch);)

namespace {

// Everything a verb needs that does not depend on the verb.
struct Checked {
  PlanCall call{};
  std::vector<void*> data;
  int64_t tasks = 0, chunks = 0, scratch = 0, partials = 0;
};

struct Tables {
  const std::vector<Tensor>& tensors;
  const Tensor &layout, &tasks, &chunks, &index, &frames;
};

int64_t rows_of(const Tensor& table, int64_t fields, const char* what) {
  require_table(table, ScalarType::Long, "int64", what);
  require(table.dim() == 2 && table.size(1) == fields, what, " must have shape (n, ", fields,
          "), got ", sizes_of(table));
  return table.size(0);
}

// `fill` sets verb, amounts and limits before the tables are checked against them.
template <typename Fill>
Checked check(const Tables& t, const Fill& fill) {
  Checked checked;
  PlanCall& call = checked.call;
  checked.tasks = rows_of(t.tasks, kTaskFields, "tasks");
  checked.chunks = rows_of(t.chunks, kChunkFields, "chunks");
  require_table(t.index, ScalarType::Long, "int64", "index");
  require(t.index.dim() == 1 && t.frames.dim() == 1, "index and frames must have one dim");
  require(t.frames.is_cpu() && t.frames.is_contiguous(), "frames must be contiguous, on the CPU");
  check_layout(t.tensors, t.layout, t.frames);
  std::vector<int64_t> reach;
  for (const Tensor& tensor : t.tensors) {
    checked.data.push_back(tensor.mutable_data_ptr());
    reach.push_back(reach_of(tensor));
  }
  call.number = t.tensors.empty() ? Number::f32 : number_of(t.tensors[0], "a parameter");
  call.tasks = static_cast<const Task*>(t.tasks.const_data_ptr());
  call.chunks = static_cast<const Chunk*>(t.chunks.const_data_ptr());
  call.index = static_cast<const int64_t*>(t.index.const_data_ptr());
  call.frames = t.frames.const_data_ptr();
  TableCheck tables(call, std::move(reach), checked.tasks, checked.chunks, t.index.numel(),
                    t.frames.numel());
  fill(call, tables);
  tables.run();
  checked.scratch = tables.scratch();
  checked.partials = tables.partials();
  return checked;
}

// Work per thread below which starting one costs more than it saves, in elements.
constexpr int64_t kWorthAThread = 32768;

int64_t work_of(const Checked& checked) {
  int64_t work = 0;
  for (int64_t c = 0; c < checked.chunks; ++c) {
    const Chunk& chunk = checked.call.chunks[c];
    const Task& task = checked.call.tasks[chunk.task];
    const int64_t units = task.kind == kDense ? task.units : chunk.k1 - chunk.k0;
    work += (chunk.o1 - chunk.o0) * (chunk.c1 - chunk.c0) * (units + 1);
  }
  return work;
}

void run(Checked& checked) {
  if (checked.chunks == 0) return;
  checked.call.data = checked.data.data();
  const auto kernel = SYMFAST_PICK(plan_run);
  const int64_t bytes = checked.scratch * accumulate_bytes(checked.call.number) + 64;
  const int64_t work = work_of(checked) / checked.chunks + 1;  // of an average chunk
  const int64_t grain = kWorthAThread / work + 1;
  const auto range = [&](int64_t begin, int64_t end) {
    std::unique_ptr<char[]> memory(checked.scratch ? new char[bytes] : nullptr);
    void* scratch = memory.get();
    if (scratch)
      scratch = static_cast<char*>(scratch) + (64 - reinterpret_cast<uintptr_t>(scratch) % 64);
    kernel(checked.call, begin, end, scratch);
  };
  if (checked.chunks <= grain) return range(0, checked.chunks);
  torch::stable::parallel_for(0, checked.chunks, grain, range);
}

void plan_check(std::vector<Tensor> tensors, Tensor layout, Tensor frames) {
  check_layout(tensors, layout, frames);
}

void plan_apply_(std::vector<Tensor> tensors, Tensor layout, Tensor tasks, Tensor chunks,
                 Tensor index, Tensor frames, std::optional<Tensor> amounts, double amount,
                 int64_t amount_index, int64_t verb) {
  require(verb >= kReflect && verb <= kProx, "verb ", verb,
          " does not change parameters; it must be 0 to 3");
  require(amount_index >= kUniform && amount_index <= kPerMirror, "amount_index must be 0, 1 or 2");
  require(amount_index == kUniform || amounts.has_value(), "amounts are missing");
  Checked checked = check(
      {tensors, layout, tasks, chunks, index, frames}, [&](PlanCall& call, TableCheck& table) {
        call.verb = static_cast<Verb>(verb);
        call.amount = amount;
        call.amount_index = static_cast<AmountIndex>(amount_index);
        if (amount_index == kUniform) return;
        require_table(*amounts, accumulate_type(call.number), "of the accumulate type", "amounts");
        require(amounts->dim() == 1, "amounts must have shape (n,), got ", sizes_of(*amounts));
        call.amounts = amounts->const_data_ptr();
        table.amounts = amounts->numel();
      });
  run(checked);
}

Tensor plan_norms(std::vector<Tensor> tensors, Tensor layout, Tensor tasks, Tensor chunks,
                  Tensor index, Tensor frames, int64_t mirrors) {
  require(mirrors >= 0, "mirrors must not be negative");
  Checked checked = check({tensors, layout, tasks, chunks, index, frames},
                          [&](PlanCall& call, TableCheck& table) {
                            call.verb = kNorms;
                            table.mirrors = mirrors;
                          });
  std::vector<double> partial(checked.partials, 0.0);
  checked.call.partial = partial.data();
  run(checked);
  Tensor result = torch::stable::new_zeros(tasks, {mirrors}, ScalarType::Double);
  auto* total = static_cast<double*>(result.mutable_data_ptr());
  for (int64_t c = 0; c < checked.chunks; ++c) {  // in chunk order: the same sum for any threads
    const Chunk& chunk = checked.call.chunks[c];
    const Task& task = checked.call.tasks[chunk.task];
    const int64_t count = TableCheck::chunk_mirrors(task, chunk);
    int64_t first = task.mirror + (task.kind == kDense ? 0 : chunk.k0);
    if (task.kind == kDense) first += chunk.o0 * task.mirror_step;
    int64_t step = 1;
    if (task.kind == kDense)
      step = task.mirror_column_step ? task.mirror_column_step : task.mirror_step;
    for (int64_t i = 0; i < count; ++i) total[first + i * step] += partial[chunk.partial + i];
  }
  return result;
}

Tensor plan_coefficients(std::vector<Tensor> tensors, Tensor layout, Tensor tasks, Tensor chunks,
                         Tensor index, Tensor frames, int64_t numel) {
  require(numel >= 0, "numel must not be negative");
  Tensor result = torch::stable::new_zeros(tasks, {numel}, frames.scalar_type());
  Checked checked = check(
      {tensors, layout, tasks, chunks, index, frames}, [&](PlanCall& call, TableCheck& table) {
        call.verb = kCoefficients;
        call.out = result.mutable_data_ptr();
        table.output = numel;
        require(tensors.empty() || accumulate_type(call.number) == frames.scalar_type(),
                "frames must be of the accumulate type");
      });
  run(checked);
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
