// SPDX-License-Identifier: Apache-2.0
// The CUDA product factors as plain functions of pointers, sizes and a stream; no torch.
#pragma once
#include <cstddef>
#include <vector>

#include "device_table.h"
#include "factor.cuh"

namespace symfast {

// The words of every weight that has elements, and the blocks of the grid they take.
inline std::vector<int64_t> factor_words(const std::vector<FactorItem>& items, int64_t elements,
                                         int64_t& blocks) {
  std::vector<int64_t> words;
  for (const FactorItem& item : items) {
    if (item.size == 0) continue;
    for (const void* p : std::initializer_list<const void*>{item.weight, item.gradient,
                                                            item.factors, item.velocity}) {
      words.push_back(reinterpret_cast<int64_t>(p));
    }
    for (const int64_t word : {item.size, blocks, item.depth, item.row}) words.push_back(word);
    blocks += (item.size + elements - 1) / elements;
  }
  return words;
}

// The step of all weights of one type, whatever their depths: one launch. `settings` and `table`
// are device memory; the table has kFactorWords for every weight, needed where there are more than
// kFactorItems.
template <typename T>
void launch_factor_step(const std::vector<FactorItem>& items, const double* settings,
                        int64_t* table, void* stream) {
  constexpr int64_t kElements = int64_t{kBlock} * kStepPack<T> * kFactorPacks;
  int64_t blocks = 0;
  const std::vector<int64_t> words = factor_words(items, kElements, blocks);
  const auto total = static_cast<int64_t>(words.size());
  FactorStepArguments a{};
  a.count = total / kFactorWords;
  a.settings = settings;
  if (a.count > kFactorItems) {
    send_table(words.data(), total, table, stream);
    a.table = table;
  } else {
    for (int64_t n = 0; n < total; ++n) a.words[n] = words[static_cast<std::size_t>(n)];
  }
  launch(factor_step<T>, {blocks, kBlock, 0, stream}, a);
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
