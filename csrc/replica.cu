// SPDX-License-Identifier: Apache-2.0
// The CUDA replica sweep on torch's current stream, and its registration.
#include "replica_launch.h"
#include "replica_op.h"
#include "tensor_cuda.h"

namespace symfast {
namespace {

struct OnStream {
  OnDevice device;
  Tensor gradient;  // where shared memory does not hold it
  explicit OnStream(const Tensor& theta)
      : device(theta), gradient(torch::stable::new_empty(theta, theta.sizes())) {}
  template <typename T>
  void launch(ReplicaArguments<T> a) const {
    a.gradient = gradient.mutable_data_ptr<T>();
    launch_replicas(a, device.stream(), most_shared_bytes());
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) {
  m.impl("replica_sweep_", TORCH_BOX(&replica_sweep<OnStream>));
}

}  // namespace symfast
