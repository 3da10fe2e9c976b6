// SPDX-License-Identifier: Apache-2.0
// Functional mirror verbs on CUDA: check, then one launch on torch's current stream.
#include <type_traits>
#include <vector>

#include "mirror_launch.h"
#include "tensor_cuda.h"

namespace symfast {
namespace {

// Shapes, types and devices of theta and O.
void check(const Tensor& theta, const Tensor& frames) {
  require(theta.dim() == 3, "theta must have shape (groups, rows, d), got ", sizes_of(theta));
  require(frames.dim() == 3, "O must have shape (groups, d, k), got ", sizes_of(frames));
  require(theta.size(0) == frames.size(0) && theta.size(2) == frames.size(1), "theta ",
          sizes_of(theta), " and O ", sizes_of(frames),
          " do not fit: wanted (groups, rows, d) and (groups, d, k)");
  require(
      theta.is_cuda() && frames.is_cuda() && theta.get_device_index() == frames.get_device_index(),
      "theta and O must be on the same device");
  require(theta.size(2) < INT32_MAX && frames.size(2) < INT32_MAX, "d and k must be below 2^31");
  const Number number = number_of(theta, "theta"), frame = number_of(frames, "O");
  const bool half = number == Number::bf16 || number == Number::f16;
  require(frame == number || (half && frame == Number::f32),
          "O must have theta's dtype, or float32 beside a half-precision theta");
}

// O as the kernel wants it: as it is where one frame fits shared memory, else O^T in float.
struct Staged {
  Tensor frames;
  int stage_bytes;
  bool transposed;

  Staged(const Tensor& o, Number number)
      : frames(o),
        stage_bytes(
            stage_bytes_for(o.size(1), o.size(2), accumulate_bytes(number), most_shared_bytes())),
        transposed(stage_bytes == 0) {
    if (transposed) {
      frames = torch::stable::transpose(torch::stable::to(o, accumulate_type(number)), 1, 2);
    }
    frames = torch::stable::contiguous(frames);
  }
};

template <Verb verb>
void run(const Tensor& theta, const Tensor& frames, MirrorLaunch call) {
  const Number number = number_of(theta, "theta");
  const Staged staged(frames, number);
  call.theta = theta.const_data_ptr();
  call.frames = staged.frames.const_data_ptr();
  call.transposed = staged.transposed;
  call.stage_bytes = staged.stage_bytes;
  const bool same = staged.frames.scalar_type() == theta.scalar_type();
  for_number(number, [&](auto element) {
    using T = decltype(element);
    if (same) return launch_mirror<verb, T, T>(call);
    if constexpr (sizeof(T) == 2) return launch_mirror<verb, T, float>(call);
  });
}

MirrorLaunch call_of(const Tensor& theta, const Tensor& frames, Tensor& out, void* stream) {
  MirrorLaunch call{};
  call.out = out.mutable_data_ptr();
  call.groups = theta.size(0);
  call.rows = theta.size(1);
  call.d = theta.size(2);
  call.k = frames.size(2);
  call.stream = stream;
  return call;
}

// A verb that leaves theta as it is, to a new tensor of this shape.
template <Verb verb>
Tensor read(const Tensor& theta, const Tensor& frames, const std::vector<int64_t>& shape,
            ScalarType type) {
  const OnDevice device(theta);
  const Tensor x = torch::stable::contiguous(theta);
  if (theta.size(2) == 0 || frames.size(2) == 0) {
    return torch::stable::new_zeros(x, shape, type);
  }
  Tensor out = torch::stable::new_empty(x, shape, type);
  run<verb>(x, frames, call_of(theta, frames, out, device.stream()));
  return out;
}

Tensor mirror_coefficients(const Tensor& theta, const Tensor& frames) {
  check(theta, frames);
  return read<kCoefficients>(theta, frames, {theta.size(0), theta.size(1), frames.size(2)},
                             theta.scalar_type());
}

Tensor mirror_norms(const Tensor& theta, const Tensor& frames) {
  check(theta, frames);
  return read<kNorms>(theta, frames, {theta.size(0), theta.size(1)},
                      accumulate_type(number_of(theta, "theta")));
}

Tensor mirror_apply(const Tensor& theta, const Tensor& frames, const Tensor& amounts, int64_t verb,
                    int64_t mode) {
  check(theta, frames);
  require(mode == kL1 || mode == kGroup, "mode ", mode, " is not 0 (l1) or 1 (group)");
  require_cuda(amounts, theta, "amounts");
  require(amounts.scalar_type() == accumulate_type(number_of(theta, "theta")) &&
              amounts.is_contiguous(),
          "amounts must be contiguous, float64 for float64 theta, else float32");
  const bool one = amounts.numel() == 1;
  require(amounts.dim() == 2 &&
              (one || (amounts.size(0) == theta.size(0) && amounts.size(1) == theta.size(1))),
          "amounts must have shape (groups, rows) or (1, 1), got ", sizes_of(amounts));
  const OnDevice device(theta);
  const Tensor x = torch::stable::contiguous(theta);
  if (frames.size(2) == 0) return torch::stable::clone(x);
  Tensor out = torch::stable::new_empty(x, {theta.size(0), theta.size(1), theta.size(2)});
  MirrorLaunch call = call_of(theta, frames, out, device.stream());
  call.amounts = amounts.const_data_ptr();
  call.one_amount = one;
  call.group = mode == kGroup;
  switch (verb) {
    case kReflect:
      run<kReflect>(x, frames, call);
      return out;
    case kProject:
      run<kProject>(x, frames, call);
      return out;
    case kShrink:
      run<kShrink>(x, frames, call);
      return out;
    case kProx:
      run<kProx>(x, frames, call);
      return out;
    default:
      break;
  }
  require(false, "verb ", verb, " is not 0 to 3");
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CUDA, m) {
  m.impl("mirror_coefficients", TORCH_BOX(&mirror_coefficients));
  m.impl("mirror_norms", TORCH_BOX(&mirror_norms));
  m.impl("mirror_apply", TORCH_BOX(&mirror_apply));
}

}  // namespace symfast
