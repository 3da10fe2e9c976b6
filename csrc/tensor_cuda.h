// SPDX-License-Identifier: Apache-2.0
// What the CUDA registrations share: the device and stream of a call, and the types of its tensors.
#pragma once
#include <torch/csrc/stable/accelerator.h>

#include <vector>

#include "launch.h"
#include "tensor.h"

namespace symfast {

// The tensor's device is current while this lives; work goes to torch's current stream of it.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor)
      : guard_(tensor.get_device_index()),
        stream_(torch::stable::accelerator::getCurrentStream(tensor.get_device_index())) {}

  void* stream() const { return stream_.nativeHandle(); }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  torch::stable::accelerator::Stream stream_;
};

inline void require_cuda(const Tensor& tensor, const Tensor& like, const char* what) {
  require(tensor.is_cuda() && tensor.get_device_index() == like.get_device_index(), what,
          " must be on the device of the parameters");
}

// Calls run(T{}) with the element type of the tensor.
template <typename Run>
void for_number(Number number, const Run& run) {
  switch (number) {
    case Number::f64:
      return run(double{});
    case Number::f32:
      return run(float{});
    case Number::bf16:
      return run(BFloat16{});
    case Number::f16:
      return run(Float16{});
  }
}

}  // namespace symfast
