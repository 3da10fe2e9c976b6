// SPDX-License-Identifier: Apache-2.0
// The CUDA sweep on torch's current stream, and its registration.
#include "factor_sweep_launch.h"
#include "factor_sweep_op.h"
#include "tensor_cuda.h"

namespace symfast {
namespace {

template <typename T>
void launch_on_stream(const SweepArguments<T>& a, const Tensor& like) {
  const OnDevice device(like);
  launch_sweep(a, device.stream(), most_shared_bytes());
}

SweepResult factor_sweep(const Tensor& gram, const Tensor& linear, const Tensor& factors,
                         const Tensor& velocity, const Tensor& second, const Tensor& depth,
                         const Tensor& factored, const Tensor& lr, const Tensor& momentum,
                         const Tensor& lam, const Tensor& moments, const Tensor& schedule,
                         const Tensor& kind, const Tensor& lr_schedule, const Tensor& lr_kind,
                         const Tensor& group, const Tensor& x, const Tensor& y, const Tensor& noise,
                         const Tensor& draws, bool by_output, std::int64_t rule,
                         std::int64_t first_step, double tol, std::int64_t check_every,
                         const Tensor& progress) {
  const OnDevice device(factors);
  return run_sweep(
      {gram,  linear,  factors,  velocity,  second,      depth,      factored,    lr, momentum,
       lam,   moments, schedule, kind,      lr_schedule, lr_kind,    group,       x,  y,
       noise, draws,   progress, by_output, rule,        first_step, check_every, tol},
      launch_on_stream<double>, launch_on_stream<float>);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) { m.impl("factor_sweep", TORCH_BOX(&factor_sweep)); }

}  // namespace symfast
