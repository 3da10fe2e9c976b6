// SPDX-License-Identifier: Apache-2.0
// What a step asks of its tensors, and their addresses.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "tensor.h"
#include "update_call.h"

namespace symfast {

inline bool same_layout(const Tensor& a, const Tensor& b) {
  const auto x = a.sizes(), y = b.sizes(), u = a.strides(), v = b.strides();
  return std::equal(x.begin(), x.end(), y.begin(), y.end()) &&
         std::equal(u.begin(), u.end(), v.begin(), v.end());
}

// Whether the elements are flat memory: every one once, without gaps, in whatever order of dims.
inline bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) != 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t reach = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != reach) return false;
    reach *= size;
  }
  return true;
}

// A number that lies on the CPU.
inline double host_number(const std::optional<Tensor>& tensor, double without, const char* what) {
  if (!tensor) return without;
  require(tensor->is_cpu() && tensor->numel() == 1 && tensor->scalar_type() == ScalarType::Float,
          what, " must be one float32 number on the CPU, where the parameters are");
  return *static_cast<const float*>(tensor->const_data_ptr());
}

// The lists of a step: parameters of one dtype, gradients and states that lie like them.
class UpdateOperands {
 public:
  UpdateOperands(int64_t rule, const std::vector<Tensor>& params, const std::vector<Tensor>& grads,
                 const std::vector<Tensor>& first, const std::vector<Tensor>& second,
                 const std::vector<Tensor>& steps) {
    require(rule == kSgd || rule == kAdam, "rule ", rule, " is not 0 (SGD) or 1 (Adam)");
    call_.rule = static_cast<Rule>(rule);
    const std::size_t n = params.size();
    require(grads.size() == n, "there are ", grads.size(), " gradients for ", n, " parameters");
    const bool adam = rule == kAdam;
    require(first.size() == n || (!adam && first.empty()), "there are ", first.size(),
            " first states for ", n, " parameters");
    require(second.size() == (adam ? n : 0), "Adam needs a second state for every parameter");
    require(steps.size() == n || (!adam && steps.empty()), "there are ", steps.size(),
            " steps for ", n, " parameters");
    if (n == 0) return;
    call_.number = number_of(params[0], "a parameter");
    for (std::size_t i = 0; i < n; ++i) {
      require(params[i].scalar_type() == params[0].scalar_type(),
              "the parameters of one step must have one dtype");
      require(is_dense(params[i]), "parameter ", i,
              " does not fill its memory: ", sizes_of(params[i]));
      parameters_.push_back(params[i].mutable_data_ptr());
      sizes_.push_back(params[i].numel());
      gradients_.push_back(like(grads[i], params[i], "the gradient", i));
      if (!first.empty()) first_.push_back(like(first[i], params[i], "the first state", i));
      if (adam) second_.push_back(like(second[i], params[i], "the second state", i));
      if (!steps.empty()) steps_.push_back(step_of(steps[i], params[i], i));
    }
  }

  int64_t count() const { return static_cast<int64_t>(parameters_.size()); }
  void** parameters() { return parameters_.data(); }

  // The settings and keys of every parameter, from tables on the CPU.
  void read_host(const Tensor& settings, const Tensor& keys, double grad_scale) {
    require_table(settings, ScalarType::Double, "float64", "settings");
    require_table(keys, ScalarType::Long, "int64", "keys");
    require(settings.dim() == 2 && settings.size(1) == kSettings && keys.dim() == 2 &&
                keys.size(1) == kKeys && keys.size(0) == count(),
            "settings must have shape (rows, ", +kSettings, ") and keys (parameters, ", +kKeys,
            "), got ", sizes_of(settings), " and ", sizes_of(keys));
    const auto* rows = static_cast<const double*>(settings.const_data_ptr());
    const auto* key = static_cast<const int64_t*>(keys.const_data_ptr());
    for (int64_t t = 0; t < count(); ++t, key += kKeys) {
      require(key[kRow] >= 0 && key[kRow] < settings.size(0), "parameter ", t,
              " names no row of settings");
      const double step = steps_.empty() ? 1.0 : double{*steps_[t]} + 1.0;
      scalars_.push_back(
          step_scalars(call_.rule, rows + key[kRow] * kSettings, key, step, grad_scale));
      require(!scalars_.back().momentum_form || !first_.empty(),
              "momentum needs a first state for every parameter");
    }
  }

  // Rows of addresses and sizes for the CUDA kernels, see UpdateWord in update.cuh.
  std::vector<int64_t> words() const {
    std::vector<int64_t> found;
    const auto add = [&](const auto& list, std::size_t t) {
      found.push_back(list.empty() ? 0 : reinterpret_cast<int64_t>(list[t]));
    };
    for (std::size_t t = 0; t < parameters_.size(); ++t) {
      add(parameters_, t);
      add(gradients_, t);
      add(first_, t);
      add(second_, t);
      add(steps_, t);
      found.push_back(sizes_[t]);
      found.push_back(0);  // its first block
    }
    return found;
  }

  void count_steps() {
    for (float* step : steps_) *step += 1.0f;
  }

  const UpdateCall& call() {
    call_.parameters = parameters_.data();
    call_.gradients = gradients_.data();
    call_.first = first_.empty() ? nullptr : first_.data();
    call_.second = second_.empty() ? nullptr : second_.data();
    call_.scalars = scalars_.data();
    return call_;
  }

 private:
  static void* like(const Tensor& tensor, const Tensor& parameter, const char* what,
                    std::size_t i) {
    if (tensor.scalar_type() != parameter.scalar_type() || !same_layout(tensor, parameter) ||
        tensor.is_cpu() != parameter.is_cpu()) {
      refuse(what, " of parameter ", i, " must have its dtype, device, sizes and strides; got ",
             sizes_of(tensor), " for ", sizes_of(parameter));
    }
    return tensor.mutable_data_ptr();
  }

  static float* step_of(const Tensor& step, const Tensor& parameter, std::size_t i) {
    require(step.is_cpu() == parameter.is_cpu() && step.numel() == 1 &&
                step.scalar_type() == ScalarType::Float,
            "the step of parameter ", i, " must be one float32 number on its device");
    return static_cast<float*>(step.mutable_data_ptr());
  }

  UpdateCall call_{};
  std::vector<void*> parameters_, first_, second_;
  std::vector<const void*> gradients_;
  std::vector<float*> steps_;
  std::vector<int64_t> sizes_;
  std::vector<StepScalars> scalars_;
};

}  // namespace symfast
