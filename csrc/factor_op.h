// SPDX-License-Identifier: Apache-2.0
// The torch side of the product-factor operators, shared by the CPU and the CUDA registration:
// checks that protect memory, output tensors, plain pointers for the kernels.
#pragma once
#include <cmath>
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

// The weights of one step as plain pointers, checked; all of one dtype and on one device.
inline std::vector<FactorItem> check_step(const std::vector<Tensor>& weights,
                                          const std::vector<Tensor>& gradients,
                                          const std::vector<Tensor>& factors,
                                          const std::vector<Tensor>& velocities,
                                          const FactorRates& rates) {
  const std::size_t count = weights.size();
  require(gradients.size() == count && factors.size() == count &&
              (velocities.empty() || velocities.size() == count),
          "give one gradient, one stack of factors and one or no velocity for each of ", count,
          " weights");
  require(std::isfinite(rates.lr) && std::isfinite(rates.momentum) && std::isfinite(rates.decay),
          "lr, momentum and decay must be finite");
  require(velocities.empty() == (rates.momentum == 0.0),
          "give velocities if and only if there is momentum");
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
    FactorItem item{
        w.mutable_data_ptr(), g.const_data_ptr(), f.mutable_data_ptr(), nullptr, w.numel(), depth};
    if (!velocities.empty()) {
      require_like(velocities[i], f, "a velocity");
      require(velocities[i].is_contiguous(), "velocities must be contiguous");
      item.velocity = velocities[i].mutable_data_ptr();
    }
    items.push_back(item);
  }
  return items;
}

}  // namespace symfast
