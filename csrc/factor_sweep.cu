// SPDX-License-Identifier: Apache-2.0
// The CUDA sweep on torch's current stream, and its registration.
#include "factor_sweep_launch.h"
#include "factor_sweep_op.h"
#include "tensor_cuda.h"

namespace symfast {
namespace {

struct OnStream {
  OnDevice device;
  explicit OnStream(const Tensor& like) : device(like) {}
  template <typename T>
  void launch(const SweepArguments<T>& a) const {
    launch_sweep(a, device.stream(), most_shared_bytes());
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) {
  m.impl("factor_sweep", TORCH_BOX(&factor_sweep<OnStream>));
}

}  // namespace symfast
