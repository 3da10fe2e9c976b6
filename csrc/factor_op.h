// SPDX-License-Identifier: Apache-2.0
// The torch side of the product-factor operators, shared by the CPU and the CUDA registration:
// checks that protect memory, output tensors, plain pointers for the kernels.
#pragma once
#include <vector>

#include "factor.h"
#include "tensor.h"

namespace symfast {

inline void require_like(const Tensor& tensor, const Tensor& like, const char* what) {
  require(tensor.device() == like.device() && tensor.scalar_type() == like.scalar_type() &&
              sizes_of(tensor) == sizes_of(like),
          what, " must have the shape, dtype and device of the others, ", sizes_of(like), ", got ",
          sizes_of(tensor));
}

// The factors of one weight, made contiguous and kept alive.
struct Factors {
  std::vector<Tensor> tensors;
  Number number;

  explicit Factors(const std::vector<Tensor>& given) {
    const auto depth = static_cast<int64_t>(given.size());
    require(depth >= 2 && depth <= kMaxDepth, "a product needs 2 to ", kMaxDepth, " factors, got ",
            depth);
    number = number_of(given[0], "factors");
    for (const Tensor& factor : given) {
      require_like(factor, given[0], "a factor");
      tensors.push_back(torch::stable::contiguous(factor));
    }
  }
};

inline Tensor empty_like_contiguous(const Tensor& like) {
  return torch::stable::new_empty(like, like.sizes());
}

// The settings of one step: float64 (rows, kFactorSettings), where the weights are.
inline void check_settings(const Tensor& settings, const Tensor& weight) {
  require(settings.device() == weight.device() && settings.scalar_type() == ScalarType::Double &&
              settings.is_contiguous() && settings.dim() == 2 &&
              settings.size(1) == kFactorSettings,
          "settings must be contiguous float64 of shape (rows, ", +kFactorSettings,
          "), where the weights are, got ", sizes_of(settings));
}

// The velocity of a weight; null for a tensor of no elements, which is a weight without momentum.
inline void* velocity_of(const Tensor& velocity, const Tensor& factors) {
  if (velocity.numel() == 0) return nullptr;
  require_like(velocity, factors, "a velocity");
  require(velocity.is_contiguous(), "velocities must be contiguous");
  return velocity.mutable_data_ptr();
}

// The weights of one step as plain pointers, checked; all of one dtype and on one device.
inline std::vector<FactorItem> check_step(const std::vector<Tensor>& weights,
                                          const std::vector<Tensor>& gradients,
                                          const std::vector<Tensor>& factors,
                                          const std::vector<Tensor>& velocities,
                                          const Tensor& settings,
                                          const std::vector<int64_t>& rows) {
  const std::size_t count = weights.size();
  require(gradients.size() == count && factors.size() == count && rows.size() == count &&
              (velocities.empty() || velocities.size() == count),
          "give one gradient, one stack of factors, one row and one or no velocity for each of ",
          count, " weights");
  if (count > 0) check_settings(settings, weights[0]);
  std::vector<FactorItem> items;
  for (std::size_t i = 0; i < count; ++i) {
    const Tensor &w = weights[i], &g = gradients[i], &f = factors[i];
    const Number number = number_of(w, "a weight");
    require_like(g, w, "a gradient");
    require(w.is_contiguous() && g.is_contiguous() && f.is_contiguous(),
            "weights, gradients and factors must be contiguous");
    require(w.scalar_type() == weights[0].scalar_type() && w.device() == weights[0].device(),
            "weights of one call must have one dtype and device");
    const int64_t depth = f.dim() ? f.size(0) : 0;
    require(depth >= 2 && depth <= kMaxDepth && f.dim() == w.dim() + 1 &&
                f.numel() == depth * w.numel(),
            "factors must have shape (depth, *weight) with depth 2 to ", kMaxDepth, ", got ",
            sizes_of(f), " for a weight ", sizes_of(w));
    require(f.scalar_type() == accumulate_type(number) && f.device() == w.device(),
            "factors must be float64 for float64 weights, else float32, on the weight's device");
    require(rows[i] >= 0 && rows[i] < settings.size(0), "row ", rows[i],
            " must be one of the settings' ", settings.size(0));
    items.push_back({w.mutable_data_ptr(), g.const_data_ptr(), f.mutable_data_ptr(),
                     velocities.empty() ? nullptr : velocity_of(velocities[i], f), w.numel(), depth,
                     rows[i]});
  }
  return items;
}

}  // namespace symfast
