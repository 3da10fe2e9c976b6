// SPDX-License-Identifier: Apache-2.0
// The CUDA replica sweep on torch's current stream, and its registration.
#include "replica_launch.h"
#include "replica_op.h"
#include "tensor_cuda.h"

namespace symfast {
namespace {

template <typename T>
void launch_on_stream(const ReplicaArguments<T>& a, const Tensor& like) {
  const OnDevice device(like);
  launch_replicas(a, device.stream(), most_shared_bytes());
}

void replica_sweep(const Tensor& x, const Tensor& y, const Tensor& theta, const Tensor& first,
                   const Tensor& second, const Tensor& rates, const Tensor& schedule,
                   const Tensor& kind, const Tensor& seed, const Tensor& cell, const Tensor& batch,
                   const Tensor& constraint, const Tensor& offsets, const Tensor& members,
                   const Tensor& directions, const Tensor& status, const Tensor& taken,
                   const Tensor& progress, std::int64_t hidden, bool bias, std::int64_t activation,
                   std::int64_t loss, std::int64_t rule, std::int64_t first_step) {
  const OnDevice device(theta);
  const Tensor gradient = torch::stable::new_empty(theta, theta.sizes());
  run_replicas({x,     y,        theta,  first,      second,     rates,   schedule,   kind,
                seed,  cell,     batch,  constraint, offsets,    members, directions, status,
                taken, progress, hidden, bias,       activation, loss,    rule,       first_step},
               &gradient, launch_on_stream<double>, launch_on_stream<float>);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) { m.impl("replica_sweep_", TORCH_BOX(&replica_sweep)); }

}  // namespace symfast
