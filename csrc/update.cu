// SPDX-License-Identifier: Apache-2.0
// Steps on CUDA: check, then one launch (and a tiny one for the counters) on torch's current
// stream. Nothing waits for the device.
#include "tensor_cuda.h"
#include "update_check.h"
#include "update_launch.h"

namespace symfast {
namespace {

const float* device_number(const std::optional<Tensor>& number, const Tensor& like,
                           const char* what) {
  if (!number) return nullptr;
  require_cuda(*number, like, what);
  require(number->numel() == 1 && number->scalar_type() == ScalarType::Float, what,
          " must be one float32 number");
  return static_cast<const float*>(number->const_data_ptr());
}

void require_device_table(const Tensor& table, const Tensor& like, int64_t columns, ScalarType type,
                          const char* what) {
  require_cuda(table, like, what);
  require(table.scalar_type() == type && table.is_contiguous() && table.dim() == 2 &&
              table.size(1) == columns,
          what, " must be contiguous of shape (n, ", columns, "), got ", sizes_of(table));
}

void update_(int64_t rule, std::vector<Tensor> params, std::vector<Tensor> grads,
             std::vector<Tensor> first, std::vector<Tensor> second, std::vector<Tensor> steps,
             Tensor settings, Tensor keys, std::optional<Tensor> grad_scale,
             std::optional<Tensor> found_inf, int64_t plan, int64_t /*verb*/, double /*amount*/,
             std::optional<Tensor> /*amounts*/, int64_t /*amount_index*/) {
  require(plan == 0, "on CUDA the plan runs after the step: call plan_apply_");
  UpdateOperands operands(rule, params, grads, first, second, steps);
  if (params.empty()) return;
  const Tensor& like = params[0];
  const OnDevice device(like);
  for (const auto* list : {&params, &grads, &first, &second, &steps}) {
    for (const Tensor& tensor : *list) require_cuda(tensor, like, "every tensor of a step");
  }
  require_device_table(settings, like, kSettings, ScalarType::Double, "settings");
  require_device_table(keys, like, kKeys, ScalarType::Long, "keys");
  require(keys.size(0) == operands.count(), "keys must have a row for every parameter");
  std::vector<int64_t> words = operands.words();
  std::optional<Tensor> table;
  if (operands.count() > kInlineTensors) {
    table = torch::stable::new_empty(keys, {static_cast<int64_t>(words.size())});
  }
  const UpdateLaunch call{static_cast<Rule>(rule),
                          !steps.empty(),
                          settings.size(0),
                          static_cast<const double*>(settings.const_data_ptr()),
                          static_cast<const int64_t*>(keys.const_data_ptr()),
                          device_number(grad_scale, like, "grad_scale"),
                          device_number(found_inf, like, "found_inf"),
                          words,
                          table ? static_cast<int64_t*>(table->mutable_data_ptr()) : nullptr,
                          device.stream()};
  for_number(operands.call().number, [&](auto element) { launch_update<decltype(element)>(call); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) { m.impl("update_", TORCH_BOX(&update_)); }

}  // namespace symfast
