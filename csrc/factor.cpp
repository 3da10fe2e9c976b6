// SPDX-License-Identifier: Apache-2.0
// Product factors on the CPU: products, their gradients, and whole steps. Elementwise, so ranges go
// to torch's threads and the results do not depend on how many there are.
#include "factor.h"

#include <algorithm>
#include <vector>

#include "factor_call.h"
#include "factor_op.h"
#include "isa.h"
#include "parallel.h"
#include "subnormals.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void factor_run(const FactorCall& call, int64_t begin, int64_t end);
                        void factor_advance(Number number, const FactorItem& item,
                                            const FactorRates& rates, int64_t begin, int64_t end);)

namespace {

// Elements a thread takes at least; a multiple of every vector's lanes.
constexpr int64_t kGrain = 16384;

void run(const FactorCall& call, int64_t size) {
  const auto kernel = SYMFAST_PICK(factor_run);
  const auto range = [&](int64_t begin, int64_t end) { kernel(call, begin, end); };
  if (size <= kGrain) return range(0, size);
  parallel_for(0, size, kGrain, range);
}

FactorCall call_of(const Factors& factors) {
  FactorCall call{factors.number, static_cast<int64_t>(factors.tensors.size()), {}, nullptr, {}};
  for (std::size_t j = 0; j < factors.tensors.size(); ++j)
    call.factors[j] = factors.tensors[j].const_data_ptr();
  return call;
}

Tensor factor_product(std::vector<Tensor> given) {
  const Factors factors(given);
  const Tensor out = empty_like_contiguous(given[0]);
  FactorCall call = call_of(factors);
  call.outputs[0] = out.mutable_data_ptr();
  run(call, out.numel());
  return out;
}

std::vector<Tensor> factor_gradients(const Tensor& gradient, std::vector<Tensor> given) {
  const Factors factors(given);
  require_like(gradient, given[0], "the gradient");
  const Tensor g = torch::stable::contiguous(gradient);
  FactorCall call = call_of(factors);
  if (g.numel() > 0) call.gradient = g.const_data_ptr();
  std::vector<Tensor> outputs;
  for (std::size_t j = 0; j < given.size(); ++j) {
    outputs.push_back(empty_like_contiguous(given[0]));
    call.outputs[j] = outputs[j].mutable_data_ptr();
  }
  if (g.numel() > 0) run(call, g.numel());
  return outputs;
}

// The elements of all weights in one row, cut into ranges of kGrain within a weight.
struct Range {
  std::size_t item;
  int64_t begin, end;
};

// A row of the settings.
FactorRates rates_of(const double* settings, int64_t row) {
  const double* found = settings + row * kFactorSettings;
  return {found[kFactorLr], found[kFactorMomentum], found[kFactorDecay]};
}

void factor_step_(std::vector<Tensor> weights, std::vector<Tensor> gradients,
                  std::vector<Tensor> factors, std::vector<Tensor> velocities,
                  const Tensor& settings, std::vector<int64_t> rows) {
  const auto items = check_step(weights, gradients, factors, velocities, settings, rows);
  if (items.empty()) return;
  const auto* const numbers = static_cast<const double*>(settings.const_data_ptr());
  const Number number = number_of(weights[0], "a weight");
  std::vector<Range> ranges;
  for (std::size_t i = 0; i < items.size(); ++i)
    for (int64_t begin = 0; begin < items[i].size; begin += kGrain)
      ranges.push_back({i, begin, std::min(begin + kGrain, items[i].size)});
  const auto kernel = SYMFAST_PICK(factor_advance);
  const auto share = [&](int64_t first, int64_t last) {
    const FlushSubnormals flush;
    for (int64_t r = first; r < last; ++r) {
      const Range& range = ranges[static_cast<std::size_t>(r)];
      const FactorItem& item = items[range.item];
      kernel(number, item, rates_of(numbers, item.row), range.begin, range.end);
    }
  };
  const auto count = static_cast<int64_t>(ranges.size());
  int64_t elements = 0;
  for (const FactorItem& item : items) elements += item.size;
  if (elements <= kGrain) return share(0, count);
  parallel_for(0, count, 1, share);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) {
  m.impl("factor_product", TORCH_BOX(&factor_product));
  m.impl("factor_gradients", TORCH_BOX(&factor_gradients));
  m.impl("factor_step_", TORCH_BOX(&factor_step_));
}

}  // namespace symfast
