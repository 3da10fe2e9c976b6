// SPDX-License-Identifier: Apache-2.0
// The CUDA product factors as plain functions of pointers, sizes and a stream; no torch.
#pragma once
#include <cstddef>
#include <vector>

#include "factor.cuh"
#include "launch.h"

namespace symfast {

template <typename T, int D, bool kMomentum>
void launch_step_chosen(const std::vector<FactorItem>& items, const FactorRates& rates,
                        void* stream) {
  using A = Accumulate<T>;
  constexpr int64_t kElements = int64_t{kBlock} * kStepPack<T, D, kMomentum> * kFactorPacks;
  FactorStepArguments<T> a{};
  a.lr = static_cast<A>(rates.lr);
  a.momentum = static_cast<A>(rates.momentum);
  a.decay = static_cast<A>(rates.decay);
  int64_t blocks = 0;
  const auto flush = [&] {
    if (a.count > 0) launch(factor_step<T, D, kMomentum>, {blocks, kBlock, 0, stream}, a);
    a.count = 0;
    blocks = 0;
  };
  for (const FactorItem& item : items) {
    if (item.depth != D || item.size == 0) continue;
    a.items[a.count++] = {item.weight,   item.gradient, item.factors,
                          item.velocity, item.size,     blocks};
    blocks += (item.size + kElements - 1) / kElements;
    if (a.count == kFactorItems) flush();
  }
  flush();
}

// The step of all weights of one type: one launch for every 48 weights of one depth.
template <typename T, int D = 2>
void launch_factor_step(const std::vector<FactorItem>& items, const FactorRates& rates,
                        void* stream) {
  bool found = false;
  for (const FactorItem& item : items) found = found || item.depth == D;
  if (found && items[0].velocity != nullptr) launch_step_chosen<T, D, true>(items, rates, stream);
  if (found && items[0].velocity == nullptr) launch_step_chosen<T, D, false>(items, rates, stream);
  if constexpr (D < kMaxDepth) launch_factor_step<T, D + 1>(items, rates, stream);
}

// The product of `depth` factors, or with a gradient the gradient of each.
struct FactorLaunch {
  const void* const* factors;
  const void* gradient;
  void* const* outputs;
  int64_t depth, size;
  void* stream;
};

template <typename T, int D = 2>
void launch_factor(const FactorLaunch& call) {
  if (call.depth == D) {
    FactorArguments<T, D> a{};
    a.size = call.size;
    a.gradient = static_cast<const T*>(call.gradient);
    for (int j = 0; j < D; ++j) a.factors[j] = static_cast<const T*>(call.factors[j]);
    for (int j = 0; j < (call.gradient ? D : 1); ++j)
      a.outputs[j] = static_cast<T*>(call.outputs[j]);
    constexpr int64_t kElements = int64_t{kBlock} * kPack<T>;
    const Launch shape{(call.size + kElements - 1) / kElements, kBlock, 0, call.stream};
    if (call.gradient) return launch(factor_multiply<T, D, true>, shape, a);
    return launch(factor_multiply<T, D, false>, shape, a);
  }
  if constexpr (D < kMaxDepth) launch_factor<T, D + 1>(call);
}

}  // namespace symfast
