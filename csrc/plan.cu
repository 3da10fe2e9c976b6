// SPDX-License-Identifier: Apache-2.0
// The verbs of a plan on CUDA: cheap checks, then one launch. Nothing but plan_norms waits for the
// device or reads its memory, so a captured CUDA graph replays every verb. The tables' contents are
// trusted: symfast/tables.py made them, and on the device only these kernels see them.
#include <optional>
#include <vector>

#include "plan_check.h"
#include "plan_launch.h"
#include "tensor_cuda.h"

namespace symfast {
namespace {

struct Tables {
  const std::vector<Tensor>& tensors;
  const Tensor &layout, &tasks, &chunks, &index, &frames;
};

// Device pointers of the tensors, and room for a table of them where they are too many.
struct Pointers {
  std::vector<void*> data;
  std::optional<Tensor> table;

  explicit Pointers(const Tables& t) {
    for (const Tensor& tensor : t.tensors) data.push_back(tensor.mutable_data_ptr());
    if (data.size() <= kTensors) return;
    table = torch::stable::new_empty(t.tasks, {static_cast<int64_t>(data.size())});
  }
};

void require_rows(const Tensor& table, const Tensor& like, int64_t fields, const char* what) {
  require_cuda(table, like, what);
  require(table.scalar_type() == ScalarType::Long && table.is_contiguous() && table.dim() == 2 &&
              table.size(1) == fields,
          what, " must be contiguous int64 of shape (n, ", fields, "), got ", sizes_of(table));
}

Number check(const Tables& t) {
  require_rows(t.tasks, t.frames, kTaskFields, "tasks");
  require_rows(t.chunks, t.frames, kChunkFields, "chunks");
  require_cuda(t.index, t.frames, "index");
  require(t.index.scalar_type() == ScalarType::Long && t.index.is_contiguous(),
          "index must be contiguous int64");
  require(t.frames.is_cuda() && t.frames.is_contiguous(), "frames must be contiguous, on CUDA");
  check_layout(t.tensors, t.layout, t.frames);
  if (!t.tensors.empty()) return number_of(t.tensors[0], "a parameter");
  require(t.chunks.size(0) == 0, "there are chunks, but no parameters");
  return t.frames.scalar_type() == ScalarType::Double ? Number::f64 : Number::f32;
}

PlanLaunch call_of(const Tables& t, const Pointers& pointers, void* stream) {
  return {static_cast<const int64_t*>(t.tasks.const_data_ptr()),
          static_cast<const int64_t*>(t.chunks.const_data_ptr()),
          static_cast<const int64_t*>(t.index.const_data_ptr()),
          t.chunks.size(0),
          t.frames.const_data_ptr(),
          t.frames.numel() > 0,
          nullptr,
          0.0,
          kUniform,
          nullptr,
          nullptr,
          pointers.data,
          pointers.table ? static_cast<int64_t*>(pointers.table->mutable_data_ptr()) : nullptr,
          stream};
}

template <Verb verb>
void launch_for(Number number, const PlanLaunch& call) {
  for_number(number, [&](auto element) { launch_plan<verb, decltype(element)>(call); });
}

void plan_check(std::vector<Tensor> tensors, Tensor layout, Tensor frames) {
  check_layout(tensors, layout, frames);
}

void plan_apply_(std::vector<Tensor> tensors, Tensor layout, Tensor tasks, Tensor chunks,
                 Tensor index, Tensor frames, std::optional<Tensor> amounts, double amount,
                 int64_t amount_index, int64_t verb) {
  const Tables tables{tensors, layout, tasks, chunks, index, frames};
  const Number number = check(tables);
  require(amount_index >= kUniform && amount_index <= kPerMirror, "amount_index must be 0, 1 or 2");
  require(amount_index == kUniform || amounts.has_value(), "amounts are missing");
  const OnDevice device(frames);
  const Pointers pointers(tables);
  PlanLaunch call = call_of(tables, pointers, device.stream());
  call.amount = amount;
  call.amount_index = static_cast<AmountIndex>(amount_index);
  std::optional<Tensor> numbers;  // lives until the launch
  if (amount_index != kUniform) {
    require_cuda(*amounts, frames, "amounts");
    require(amounts->scalar_type() == frames.scalar_type(),
            "amounts must be of the accumulate type");
    numbers = torch::stable::contiguous(*amounts);
    call.amounts = numbers->const_data_ptr();
  }
  switch (verb) {
    case kReflect:
      return launch_for<kReflect>(number, call);
    case kProject:
      return launch_for<kProject>(number, call);
    case kShrink:
      return launch_for<kShrink>(number, call);
    case kProx:
      return launch_for<kProx>(number, call);
    default:
      break;
  }
  require(false, "verb ", verb, " does not change parameters; it must be 0 to 3");
}

// A row of a device table, on the host.
const int64_t* row_of(const Tensor& table, int64_t row, Tensor& host) {
  Tensor source = table;
  host = torch::stable::to(torch::stable::narrow(source, 0, row, 1),
                           torch::stable::Device(torch::headeronly::DeviceType::CPU));
  return static_cast<const int64_t*>(host.const_data_ptr());
}

// Partial sums of all chunks: the last chunk's are the last ones. Waits for the device.
int64_t workspace_of(const Tables& t) {
  const int64_t chunks = t.chunks.size(0);
  if (chunks == 0) return 0;
  Tensor chunk_row = t.chunks, task_row = t.tasks;
  const Chunk& chunk = *reinterpret_cast<const Chunk*>(row_of(t.chunks, chunks - 1, chunk_row));
  require(chunk.task >= 0 && chunk.task < t.tasks.size(0), "the last chunk names no task");
  const Task& task = *reinterpret_cast<const Task*>(row_of(t.tasks, chunk.task, task_row));
  return chunk.partial + TableCheck::chunk_mirrors(task, chunk);
}

Tensor plan_norms(std::vector<Tensor> tensors, Tensor layout, Tensor tasks, Tensor chunks,
                  Tensor index, Tensor frames, int64_t mirrors) {
  require(mirrors >= 0, "mirrors must not be negative");
  const Tables tables{tensors, layout, tasks, chunks, index, frames};
  const Number number = check(tables);
  const OnDevice device(frames);
  const Pointers pointers(tables);
  PlanLaunch call = call_of(tables, pointers, device.stream());
  const Tensor partials =
      torch::stable::new_empty(tasks, {workspace_of(tables)}, ScalarType::Double);
  const Tensor sums = torch::stable::new_empty(tasks, {mirrors}, ScalarType::Double);
  call.partials = static_cast<double*>(partials.mutable_data_ptr());
  launch_for<kNorms>(number, call);
  launch_sums(call, mirrors, static_cast<double*>(sums.mutable_data_ptr()));
  return sums;
}

Tensor plan_coefficients(std::vector<Tensor> tensors, Tensor layout, Tensor tasks, Tensor chunks,
                         Tensor index, Tensor frames, int64_t numel) {
  require(numel >= 0, "numel must not be negative");
  const Tables tables{tensors, layout, tasks, chunks, index, frames};
  const Number number = check(tables);
  const OnDevice device(frames);
  const Pointers pointers(tables);
  PlanLaunch call = call_of(tables, pointers, device.stream());
  const Tensor out = torch::stable::new_empty(tasks, {numel}, frames.scalar_type());
  call.out = out.mutable_data_ptr();
  launch_for<kCoefficients>(number, call);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) {
  m.impl("plan_check", TORCH_BOX(&plan_check));
  m.impl("plan_apply_", TORCH_BOX(&plan_apply_));
  m.impl("plan_norms", TORCH_BOX(&plan_norms));
  m.impl("plan_coefficients", TORCH_BOX(&plan_coefficients));
}

}  // namespace symfast
