// SPDX-License-Identifier: Apache-2.0
// Product factors on torch's current CUDA stream, and their registration.
#include <optional>
#include <vector>

#include "factor_launch.h"
#include "factor_op.h"
#include "tensor_cuda.h"

namespace symfast {
namespace {

void run(const Factors& factors, const Tensor* gradient, const std::vector<Tensor>& outputs) {
  const Tensor& like = factors.tensors[0];
  if (like.numel() == 0) return;
  const OnDevice device(like);
  std::vector<const void*> inputs;
  std::vector<void*> targets;
  for (const Tensor& factor : factors.tensors) inputs.push_back(factor.const_data_ptr());
  for (const Tensor& output : outputs) targets.push_back(output.mutable_data_ptr());
  const FactorLaunch call{inputs.data(),  gradient ? gradient->const_data_ptr() : nullptr,
                          targets.data(), static_cast<int64_t>(inputs.size()),
                          like.numel(),   device.stream()};
  for_number(factors.number, [&](auto element) { launch_factor<decltype(element)>(call); });
}

Tensor factor_product(std::vector<Tensor> given) {
  const Factors factors(given);
  const Tensor out = empty_like_contiguous(given[0]);
  run(factors, nullptr, {out});
  return out;
}

std::vector<Tensor> factor_gradients(const Tensor& gradient, std::vector<Tensor> given) {
  const Factors factors(given);
  require_like(gradient, given[0], "the gradient");
  const Tensor g = torch::stable::contiguous(gradient);
  std::vector<Tensor> outputs;
  for (const Tensor& factor : given) outputs.push_back(empty_like_contiguous(factor));
  run(factors, &g, outputs);
  return outputs;
}

void factor_step_(std::vector<Tensor> weights, std::vector<Tensor> gradients,
                  std::vector<Tensor> factors, std::vector<Tensor> velocities,
                  const Tensor& settings, std::vector<int64_t> rows) {
  const auto items = check_step(weights, gradients, factors, velocities, settings, rows);
  if (items.empty()) return;
  const OnDevice device(weights[0]);
  std::optional<Tensor> table;
  if (items.size() > static_cast<std::size_t>(kFactorItems)) {
    const auto words = static_cast<int64_t>(items.size()) * kFactorWords;
    table = torch::stable::new_empty(weights[0], {words}, ScalarType::Long);
  }
  auto* const words = table ? static_cast<int64_t*>(table->mutable_data_ptr()) : nullptr;
  const auto* numbers = static_cast<const double*>(settings.const_data_ptr());
  for_number(number_of(weights[0], "a weight"), [&](auto element) {
    launch_factor_step<decltype(element)>(items, numbers, words, device.stream());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) {
  m.impl("factor_product", TORCH_BOX(&factor_product));
  m.impl("factor_gradients", TORCH_BOX(&factor_gradients));
  m.impl("factor_step_", TORCH_BOX(&factor_step_));
}

}  // namespace symfast
