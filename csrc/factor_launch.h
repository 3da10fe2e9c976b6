// SPDX-License-Identifier: Apache-2.0
// The CUDA product factors as plain functions of pointers, sizes and a stream; no torch.
#pragma once
#include <cstddef>
#include <vector>

#include "device_table.h"
#include "factor.cuh"

namespace symfast {

// The weights of one depth: one launch.
template <typename T, int D, bool kMomentum>
void launch_step_chosen(const std::vector<FactorItem>& items, const FactorRates& rates,
                        int64_t* table, void* stream) {
  using A = Accumulate<T>;
  constexpr int64_t kElements = int64_t{kBlock} * kStepPack<T> * kFactorPacks;
  std::vector<int64_t> words;
  int64_t blocks = 0;
  for (const FactorItem& item : items) {
    if (item.depth != D || item.size == 0) continue;
    for (const void* p : std::initializer_list<const void*>{item.weight, item.gradient,
                                                            item.factors, item.velocity}) {
      words.push_back(reinterpret_cast<int64_t>(p));
    }
    words.push_back(item.size);
    words.push_back(blocks);
    blocks += (item.size + kElements - 1) / kElements;
  }
  const auto total = static_cast<int64_t>(words.size());
  FactorStepArguments<T> a{};
  a.count = total / kFactorWords;
  a.lr = static_cast<A>(rates.lr);
  a.momentum = static_cast<A>(rates.momentum);
  a.decay = static_cast<A>(rates.decay);
  if (a.count > kFactorItems) {
    send_table(words.data(), total, table, stream);
    a.table = table;
  } else {
    for (int64_t n = 0; n < total; ++n) a.words[n] = words[static_cast<std::size_t>(n)];
  }
  launch(factor_step<T, D, kMomentum>, {blocks, kBlock, 0, stream}, a);
}

// The step of all weights of one type: one launch for each depth there is. `table` is device memory
// of kFactorWords for every weight, needed where there are more than kFactorItems.
template <typename T, int D = 2>
void launch_factor_step(const std::vector<FactorItem>& items, const FactorRates& rates,
                        int64_t* table, void* stream) {
  int64_t found = 0;
  for (const FactorItem& item : items) found += item.depth == D;
  // not by an item's velocity, which is null for an empty weight too
  if (found > 0 && rates.momentum != 0) launch_step_chosen<T, D, true>(items, rates, table, stream);
  if (found > 0 && rates.momentum == 0)
    launch_step_chosen<T, D, false>(items, rates, table, stream);
  if constexpr (D < kMaxDepth)
    launch_factor_step<T, D + 1>(items, rates, table ? table + found * kFactorWords : nullptr,
                                 stream);
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
