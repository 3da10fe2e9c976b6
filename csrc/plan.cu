// SPDX-License-Identifier: Apache-2.0
// The verbs of a plan on CUDA: find its tables, which plan_store checked on the host, then one
// launch. Nothing waits for the device or reads its memory, so a captured CUDA graph replays every
// verb.
#include <optional>
#include <vector>

#include "plan_prox_group_launch.h"
#include "plan_tables.h"
#include "tensor_cuda.h"

namespace symfast {
namespace {

// A verb about to run: its plan, found and kept alive, and the parameters, checked against it.
struct Prepared {
  std::shared_ptr<const PlanTables> plan;
  std::vector<void*> data;
  Number number;
  OnDevice device;
  std::optional<Tensor> pointers;  // room for a table of addresses where they are too many
  PlanLaunch call;

  Prepared(const std::vector<Tensor>& tensors, int64_t key)
      : plan(find_plan(key)),
        data(tensors.size()),
        number(check_parameters(*plan, tensors, data.data())),
        device(plan->frames),
        pointers(table_for(*plan, data.size())),
        call{reinterpret_cast<const int64_t*>(plan->task_rows()),
             reinterpret_cast<const int64_t*>(plan->chunk_rows()),
             plan->index_pool(),
             plan->chunk_count,
             plan->frames.const_data_ptr(),
             plan->frames.numel() > 0,
             nullptr,
             0.0,
             kUniform,
             nullptr,
             nullptr,
             data,
             pointers ? static_cast<int64_t*>(pointers->mutable_data_ptr()) : nullptr,
             device.stream()} {
    call.gathered = plan->needs.gathered;
  }
  Prepared(const Prepared&) = delete;  // call refers to data

 private:
  static std::optional<Tensor> table_for(const PlanTables& plan, std::size_t count) {
    if (count <= kTensors) return std::nullopt;
    return torch::stable::new_empty(plan.tasks, {static_cast<int64_t>(count)});
  }
};

template <Verb verb>
void launch_for(Number number, const PlanLaunch& call) {
  for_number(number, [&](auto element) { launch_plan<verb, decltype(element)>(call); });
}

void plan_check(std::vector<Tensor> tensors, int64_t plan) {
  std::vector<void*> data(tensors.size());
  check_parameters(*find_plan(plan), tensors, data.data());
}

void plan_apply_(std::vector<Tensor> tensors, int64_t plan, int64_t verb, double amount,
                 std::optional<Tensor> amounts, int64_t amount_index) {
  require_verb(verb);
  Prepared prepared(tensors, plan);
  PlanLaunch& call = prepared.call;
  call.amounts = check_amounts(*prepared.plan, amounts, amount_index);
  call.amount = amount;
  call.amount_index = amount_index;
  const Number number = prepared.number;
  switch (verb) {
    case kReflect:
      return launch_for<kReflect>(number, call);
    case kProject:
      return launch_for<kProject>(number, call);
    case kShrink:
      return launch_for<kShrink>(number, call);
    default:  // kProx
      return launch_for<kProx>(number, call);
  }
}

void plan_prox_group_(std::vector<Tensor> tensors, int64_t plan, double threshold,
                      std::optional<Tensor> thresholds) {
  Prepared prepared(tensors, plan);
  const PlanTables& tables = *prepared.plan;
  const double* const given = check_thresholds(tables, thresholds);
  const auto& [sizes, words] = tables.by_mirror;
  const int64_t numbers = prox_group_numbers(sizes, tables.needs.partials, tables.mirrors);
  const Tensor workspace = torch::stable::new_empty(tables.frames, {numbers}, ScalarType::Double);
  const void* const table = words ? words->const_data_ptr() : nullptr;
  const ProxGroupLaunch prox{given,
                             threshold,
                             static_cast<const int64_t*>(table),
                             sizes,
                             tables.needs.partials,
                             tables.mirrors,
                             static_cast<double*>(workspace.mutable_data_ptr()),
                             new_tag()};
  for_number(prepared.number,
             [&](auto element) { launch_prox_group<decltype(element)>(prepared.call, prox); });
}

Tensor plan_norms(std::vector<Tensor> tensors, int64_t plan, std::optional<Tensor> before,
                  int64_t per, bool root) {
  Prepared prepared(tensors, plan);
  const PlanTables& tables = *prepared.plan;
  const double* const others = check_before(tables, before, per);
  const bool by_group = per == kPerGroup;
  const int64_t count = by_group ? tables.groups : tables.mirrors;
  const auto& [sizes, words] = by_group ? tables.by_group : tables.by_mirror;
  const auto doubles = [&](int64_t count) {
    return torch::stable::new_empty(tables.frames, {count}, ScalarType::Double);
  };
  require(tables.chunk_count > 0 || !before, "a plan of nothing has no norms to add");
  if (tables.chunk_count == 0) {
    return torch::stable::new_zeros(tables.frames, {count}, ScalarType::Double);
  }
  const Tensor sums = doubles(count);
  const Tensor workspace = doubles(workspace_numbers(sizes, tables.needs.partials, by_group));
  const void* const table = words ? words->const_data_ptr() : nullptr;
  const NormsLaunch norms{static_cast<const int64_t*>(table),
                          sizes,
                          static_cast<double*>(sums.mutable_data_ptr()),
                          static_cast<double*>(workspace.mutable_data_ptr()),
                          tables.needs.partials,
                          new_tag(),
                          by_group,
                          others,
                          root};
  for_number(prepared.number,
             [&](auto element) { launch_norms<decltype(element)>(prepared.call, norms); });
  return sums;
}

Tensor plan_coefficients(std::vector<Tensor> tensors, int64_t plan) {
  Prepared prepared(tensors, plan);
  const PlanTables& tables = *prepared.plan;
  const Tensor out = torch::stable::new_empty(tables.frames, {tables.output});
  prepared.call.out = out.mutable_data_ptr();
  launch_for<kCoefficients>(prepared.number, prepared.call);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) {
  m.impl("plan_store", TORCH_BOX(&plan_store));
  m.impl("plan_check", TORCH_BOX(&plan_check));
  m.impl("plan_apply_", TORCH_BOX(&plan_apply_));
  m.impl("plan_prox_group_", TORCH_BOX(&plan_prox_group_));
  m.impl("plan_norms", TORCH_BOX(&plan_norms));
  m.impl("plan_coefficients", TORCH_BOX(&plan_coefficients));
}

}  // namespace symfast
