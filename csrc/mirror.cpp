// SPDX-License-Identifier: Apache-2.0
// Functional mirror verbs on the CPU: check, then hand items to torch's threads.
#include "mirror.h"

#include <memory>

#include "isa.h"
#include "mirror_call.h"
#include "parallel.h"
#include "tensor.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void mirror_run(const MirrorCall& call, int64_t begin, int64_t end,
                                        void* scratch);)

namespace {

// Work per thread below which starting one costs more than it saves, in multiply-adds.
constexpr int64_t kWorthAThread = 65536;

Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Shapes, types and devices; fills everything but verb, amounts and output.
MirrorCall check(const Tensor& theta, const Tensor& frames) {
  require(theta.dim() == 3, "theta must have shape (groups, rows, d), got ", sizes_of(theta));
  require(frames.dim() == 3, "O must have shape (groups, d, k), got ", sizes_of(frames));
  require(theta.size(0) == frames.size(0) && theta.size(2) == frames.size(1), "theta ",
          sizes_of(theta), " and O ", sizes_of(frames),
          " do not fit: wanted (groups, rows, d) and (groups, d, k)");
  require(theta.is_cpu() && frames.is_cpu(), "theta and O must be on the same device");
  MirrorCall call{};
  call.number = number_of(theta, "theta");
  call.frame_number = number_of(frames, "O");
  const bool half = call.number == Number::bf16 || call.number == Number::f16;
  require(call.frame_number == call.number || (half && call.frame_number == Number::f32),
          "O must have theta's dtype, or float32 beside a half-precision theta");
  call.groups = theta.size(0);
  call.rows = theta.size(1);
  call.d = theta.size(2);
  call.k = frames.size(2);
  call.block = 64;
  return call;
}

void run(const MirrorCall& call) {
  const int64_t items = call.groups * blocks_per_group(call);
  if (items == 0) return;
  const auto kernel = SYMFAST_PICK(mirror_run);
  const int64_t bytes = scratch_numbers(call) * accumulate_bytes(call.number) + 64;
  const int64_t rows = call.rows < call.block ? call.rows : call.block;
  const int64_t grain = kWorthAThread / (rows * call.d * (call.k + 1) + 1) + 1;
  const auto range = [&](int64_t begin, int64_t end) {
    std::unique_ptr<char[]> memory(new char[bytes]);
    void* scratch = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64);
    kernel(call, begin, end, scratch);
  };
  if (items <= grain) return range(0, items);
  parallel_for(0, items, grain, range);
}

// A verb that leaves theta as it is, to `out`.
Tensor read(MirrorCall call, Verb verb, const Tensor& theta, const Tensor& frames, Tensor out) {
  const Tensor x = dense(theta), o = dense(frames);
  call.verb = verb;
  call.theta = x.const_data_ptr();
  call.frames = o.const_data_ptr();
  call.out = out.mutable_data_ptr();
  if (call.k > 0) run(call);
  return out;
}

Tensor mirror_coefficients(const Tensor& theta, const Tensor& frames) {
  const MirrorCall call = check(theta, frames);
  const Tensor out = torch::stable::new_empty(theta, {call.groups, call.rows, call.k});
  return read(call, kCoefficients, theta, frames, out);
}

// The root of the sum of squares of a row's coefficients, as wide as it is summed.
Tensor mirror_norms(const Tensor& theta, const Tensor& frames) {
  const MirrorCall call = check(theta, frames);
  const ScalarType wide = accumulate_type(call.number);
  if (call.k == 0) return torch::stable::new_zeros(theta, {call.groups, call.rows}, wide);
  const Tensor out = torch::stable::new_empty(theta, {call.groups, call.rows}, wide);
  return read(call, kNorms, theta, frames, out);
}

Tensor mirror_apply(const Tensor& theta, const Tensor& frames, const Tensor& amounts, int64_t verb,
                    int64_t mode) {
  MirrorCall call = check(theta, frames);
  require(verb >= kReflect && verb <= kProx, "verb ", verb, " is not 0 to 3");
  require(mode == kL1 || mode == kGroup, "mode ", mode, " is not 0 (l1) or 1 (group)");
  require_table(amounts, accumulate_type(call.number), "float64 for float64 theta, else float32",
                "amounts");
  call.one_amount = amounts.numel() == 1;
  require(amounts.dim() == 2 &&
              (call.one_amount || (amounts.size(0) == call.groups && amounts.size(1) == call.rows)),
          "amounts must have shape (groups, rows) or (1, 1), got ", sizes_of(amounts));
  const Tensor x = dense(theta), o = dense(frames);
  Tensor out = torch::stable::new_empty(x, {call.groups, call.rows, call.d});
  call.verb = static_cast<Verb>(verb);
  call.mode = static_cast<ProxMode>(mode);
  call.theta = x.const_data_ptr();
  call.frames = o.const_data_ptr();
  call.amounts = amounts.const_data_ptr();
  call.out = out.mutable_data_ptr();
  if (call.d > 0) run(call);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) {
  m.impl("mirror_coefficients", TORCH_BOX(&mirror_coefficients));
  m.impl("mirror_norms", TORCH_BOX(&mirror_norms));
  m.impl("mirror_apply", TORCH_BOX(&mirror_apply));
}

}  // namespace symfast
