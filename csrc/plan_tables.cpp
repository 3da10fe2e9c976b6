// SPDX-License-Identifier: Apache-2.0
#include "plan_tables.h"

#include <algorithm>

namespace symfast {
namespace {

int64_t rows_of(const Tensor& table, int64_t fields, const char* what) {
  require(table.dim() == 2 && table.size(1) == fields, what, " must have shape (n, ", fields,
          "), got ", sizes_of(table));
  return table.size(0);
}

// A copy of a table, so that its numbers stay those that are checked.
Tensor own(const Tensor& table, const char* what) {
  require_table(table, ScalarType::Long, "int64", what);
  return torch::stable::clone(table);
}

// Frames are numbers, not addresses: sharing their memory is safe, sharing their size is not.
Tensor own_view(const Tensor& frames) {
  require(frames.dim() == 1, "frames must have one dim");
  Tensor source = frames;
  return torch::stable::narrow(source, 0, 0, frames.numel());
}

int32_t device_type_of(const Tensor& tensor) {
  int32_t type = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  return type;
}

int32_t dtype_of(const Tensor& tensor) {
  int32_t dtype = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  return dtype;
}

// Work per thread below which starting one costs more than it saves, in elements.
constexpr int64_t kWorthAThread = 32768;

int64_t grain_of(const TableView& view) {
  if (view.chunk_count == 0) return 1;
  double work = 0;
  for (int64_t c = 0; c < view.chunk_count; ++c) {
    const Chunk& chunk = view.chunks[c];
    const Task& task = view.tasks[chunk.task];
    const int64_t units = task.kind == kDense ? task.units : chunk.k1 - chunk.k0;
    work += static_cast<double>((chunk.o1 - chunk.o0) * (chunk.c1 - chunk.c0)) *
            static_cast<double>(units + 1);
  }
  const double average = work / static_cast<double>(view.chunk_count) + 1;
  return static_cast<int64_t>(kWorthAThread / average) + 1;
}

// Whether a parameter has the sizes and strides at `expected`: (dims, sizes.., strides..).
bool same_layout(const Tensor& tensor, const int64_t* expected, int64_t length) {
  const auto sizes = tensor.sizes();
  const auto dims = static_cast<int64_t>(sizes.size());
  if (length < 1 || expected[0] != dims) return false;
  int64_t* strides = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor.get(), &strides));
  return std::equal(sizes.begin(), sizes.end(), expected + 1) &&
         std::equal(strides, strides + dims, expected + 1 + dims);
}

void check_device(const PlanTables& plan, const Tensor& tensor, std::size_t number) {
  const bool same =
      device_type_of(tensor) == plan.device_type &&
      (plan.device_type == aoti_torch_device_type_cpu() ||  // "cpu" and "cpu:0" are the same
       tensor.get_device_index() == plan.device_index);
  if (!same) {
    refuse("parameter ", number,
           " of the plan is on another device than the plan; call plan.to(device)");
  }
}

std::vector<int64_t> numbers_of(const Tensor& layout) {
  const Tensor ours = own(layout, "layout");
  require(ours.dim() == 1, "layout must have one dim, got ", sizes_of(ours));
  const auto* words = static_cast<const int64_t*>(ours.const_data_ptr());
  return {words, words + ours.numel()};
}

// The tables on the host, of the shapes and types they must have.
TableView view_of(const PlanTables& made) {
  require(made.index.dim() == 1, "index must have one dim");
  require(made.frames.is_contiguous(), "frames must be contiguous");
  require(made.accumulate == ScalarType::Double || made.accumulate == ScalarType::Float,
          "frames must be float64 or float32");
  return {made.task_rows(),    rows_of(made.tasks, kTaskFields, "tasks"),
          made.chunk_rows(),   rows_of(made.chunks, kChunkFields, "chunks"),
          made.index_pool(),   made.index.numel(),
          made.frames.numel(), made.mirrors,
          made.groups,         made.output};
}

// What norms on a GPU need where the sums of chunks are not the norms; `made` is still on the host.
PlanTables::Sums sums_of(const PlanTables& made, bool by_group) {
  const SumTables tables(made.task_rows(), made.chunk_rows(), made.chunk_count,
                         by_group ? made.groups : made.mirrors, by_group, made.needs.partials);
  const Tensor words = torch::stable::new_empty(made.tasks, {tables.sizes.words});
  std::copy(tables.words.begin(), tables.words.end(),
            static_cast<int64_t*>(words.mutable_data_ptr()));
  return {tables.sizes, torch::stable::to(words, made.frames.device())};
}

}  // namespace

void plan_store(int64_t plan, Tensor layout, Tensor tasks, Tensor chunks, Tensor index,
                Tensor frames, int64_t mirrors, int64_t numel, int64_t groups) {
  auto made = std::make_shared<PlanTables>(PlanTables{{},
                                                      own(tasks, "tasks"),
                                                      own(chunks, "chunks"),
                                                      own(index, "index"),
                                                      own_view(frames),
                                                      device_type_of(frames),
                                                      frames.get_device_index(),
                                                      frames.scalar_type(),
                                                      0,
                                                      mirrors,
                                                      numel,
                                                      groups,
                                                      {},
                                                      1,
                                                      {},
                                                      {}});
  require(mirrors >= 0 && numel >= 0 && groups >= 0,
          "mirrors, numel and groups must not be negative");
  made->layout = numbers_of(layout);
  const TableView view = view_of(*made);
  made->chunk_count = view.chunk_count;
  made->needs = TableCheck(view, reaches_of(made->layout)).run();
  made->grain = grain_of(view);
  if (!frames.is_cpu()) {
    if (!made->needs.in_place) made->by_mirror = sums_of(*made, false);
    made->by_group = sums_of(*made, true);
    for (Tensor* table : {&made->tasks, &made->chunks, &made->index}) {
      *table = torch::stable::to(*table, frames.device());
    }
  }
  keep_plan(plan, std::move(made));
}

Number check_parameters(const PlanTables& plan, const std::vector<Tensor>& tensors,
                        void** addresses) {
  const auto length = static_cast<int64_t>(plan.layout.size());
  const int64_t* expected = plan.layout.data();
  int64_t at = 0;
  int32_t dtype = 0;
  Number number = Number::f32;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    if (!same_layout(tensor, expected + at, length - at)) {
      refuse("parameter ", i, " of the plan now has sizes ", sizes_of(tensor),
             ", other sizes or strides than when the plan was made; make a new plan");
    }
    if (i == 0) {
      dtype = dtype_of(tensor);
      number = number_of(tensor, "a parameter of a plan");
    }
    require(dtype_of(tensor) == dtype && accumulate_type(number) == plan.accumulate, "parameter ",
            i, " of the plan changed its dtype; make a new plan");
    check_device(plan, tensor, i);
    addresses[i] = tensor.mutable_data_ptr();
    at += 1 + 2 * expected[at];
  }
  require(at == length, "the plan was made for another number of parameters; make a new plan");
  return number;
}

const double* check_before(const PlanTables& plan, const std::optional<Tensor>& before,
                           int64_t per) {
  require(per == kPerGroup || per == kPerMirror, "norms are per group (1) or per mirror (2)");
  if (!before.has_value()) return nullptr;
  require(before->scalar_type() == ScalarType::Double && before->is_contiguous() &&
              before->dim() == 1 &&
              before->numel() == (per == kPerGroup ? plan.groups : plan.mirrors),
          "sums to go on from must be float64, contiguous and as many as the norms");
  require(device_type_of(*before) == plan.device_type &&
              (before->is_cpu() || before->get_device_index() == plan.device_index),
          "sums to go on from must be on the device of the parameters");
  return static_cast<const double*>(before->const_data_ptr());
}

namespace {

void check_numbers(const PlanTables& plan, Tensor& numbers, int64_t needed, const char* what) {
  require(device_type_of(numbers) == plan.device_type &&
              (numbers.is_cpu() || numbers.get_device_index() == plan.device_index),
          what, " must be on the device of the parameters");
  require(numbers.dim() == 1, what, " must have one dim");
  const int64_t given = numbers.numel();
  require(given >= needed, "there are ", given, " ", what, ", but the plan needs ", needed);
  if (!numbers.is_contiguous()) numbers = torch::stable::contiguous(numbers);
}

}  // namespace

const double* check_thresholds(const PlanTables& plan, std::optional<Tensor>& thresholds) {
  if (!thresholds.has_value()) return nullptr;
  require(thresholds->scalar_type() == ScalarType::Double, "thresholds must be float64");
  check_numbers(plan, *thresholds, plan.needs.groups, "thresholds");
  return static_cast<const double*>(thresholds->const_data_ptr());
}

const void* check_amounts(const PlanTables& plan, std::optional<Tensor>& amounts,
                          int64_t amount_index) {
  require(amount_index >= kUniform && amount_index <= kPerMirror, "amount_index must be 0, 1 or 2");
  if (amount_index == kUniform) return nullptr;
  require(amounts.has_value(), "amounts are missing");
  require(amounts->scalar_type() == plan.accumulate,
          "amounts must be of the type sums are kept in");
  const int64_t needed = amount_index == kPerGroup ? plan.needs.groups : plan.needs.mirrors;
  check_numbers(plan, *amounts, needed, "amounts");
  return amounts->const_data_ptr();
}

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) { m.impl("plan_store", TORCH_BOX(&plan_store)); }

}  // namespace symfast
