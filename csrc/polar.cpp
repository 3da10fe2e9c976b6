// SPDX-License-Identifier: Apache-2.0
// Batched polar factors on the CPU: check, then hand matrices to torch's threads.
#include "polar.h"

#include <memory>
#include <tuple>

#include "isa.h"
#include "parallel.h"
#include "tensor.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void polar_run(const PolarCall& call, int64_t begin, int64_t end,
                                       void* scratch);
                        int64_t polar_width(int64_t d);)

namespace {

// (q, converged)
std::tuple<Tensor, Tensor> polar_iterate(const Tensor& matrices) {
  require(matrices.dim() == 3 && matrices.size(1) == matrices.size(2),
          "polar: matrices must have shape (batch, d, d), got ", sizes_of(matrices));
  PolarCall call{};
  call.number = number_of(matrices, "polar: matrices");
  require(call.number == Number::f64 || call.number == Number::f32,
          "polar: matrices must be float64 or float32");
  const Tensor a = torch::stable::contiguous(matrices);
  const int64_t batch = a.size(0);
  call.d = a.size(1);
  call.width = SYMFAST_PICK(polar_width)(call.d);
  const Tensor q = torch::stable::new_empty(a, {batch, call.d, call.d});
  const Tensor converged = torch::stable::new_empty(a, {batch}, ScalarType::Bool);
  if (batch == 0) return {q, converged};
  call.a = a.const_data_ptr();
  call.q = q.mutable_data_ptr();
  call.converged = static_cast<bool*>(converged.mutable_data_ptr());
  const auto kernel = SYMFAST_PICK(polar_run);
  const int64_t bytes = polar_scratch(call) * accumulate_bytes(call.number) + 64;
  const auto range = [&](int64_t begin, int64_t end) {
    std::unique_ptr<char[]> memory(new char[static_cast<std::size_t>(bytes)]);
    void* scratch = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64);
    kernel(call, begin, end, scratch);
  };
  // about 40 d^3 multiply-adds a matrix; a thread is worth starting for some ten thousand
  const int64_t grain = 16384 / (40 * call.d * call.d * call.d + 1) + 1;
  if (batch <= grain) {
    range(0, batch);
  } else {
    parallel_for(0, batch, grain, range);
  }
  return {q, converged};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) { m.impl("polar_iterate", TORCH_BOX(&polar_iterate)); }

}  // namespace symfast
