// SPDX-License-Identifier: Apache-2.0
// The torch side of symfast::factor_sweep, shared by the CPU and the CUDA registration: checks that
// protect memory, output tensors, plain pointers for the kernel.
#pragma once

#include <cstdint>
#include <tuple>

#include "factor_sweep.h"
#include "tensor.h"

namespace symfast {

// (w, factors, velocity, steps, residual, status, second)
using SweepResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

struct SweepInputs {
  Tensor gram, linear, factors, velocity, second, depth, factored, lr, momentum, lam, moments,
      schedule, kind, lr_schedule, lr_kind, group, x, y, noise, draws, progress;
  bool by_output;
  std::int64_t rule, first_step, check_every;
  double tol;
};

namespace sweep_detail {

inline void check_vector(const Tensor& x, const char* name, std::int64_t size, ScalarType dtype,
                         const Tensor& like) {
  require(x.dim() == 1 && x.size(0) == size, "factor_sweep: ", name, " must have shape (", size,
          ",), got ", sizes_of(x));
  require(x.scalar_type() == dtype, "factor_sweep: ", name, " has the wrong dtype");
  require(x.device() == like.device(), "factor_sweep: ", name, " must be on the device of factors");
}

// A schedule (kinds, steps), as many steps as another's.
inline void check_schedule(const Tensor& x, const char* name, const Tensor& other,
                           const Tensor& like) {
  require(x.dim() == 2 && x.size(0) > 0 && other.dim() == 2 && x.size(1) == other.size(1) &&
              x.scalar_type() == like.scalar_type() && x.device() == like.device(),
          "factor_sweep: ", name,
          " must have shape (kinds, steps) and the dtype and device of factors");
}

inline void check_rows(const Tensor& x, const char* name, std::int64_t rows, std::int64_t columns,
                       ScalarType dtype, const Tensor& like) {
  require(x.dim() == 2 && x.size(0) == rows && x.size(1) == columns, "factor_sweep: ", name,
          " must have shape (", rows, ", ", columns, "), got ", sizes_of(x));
  require(x.scalar_type() == dtype, "factor_sweep: ", name, " has the wrong dtype");
  require(x.device() == like.device(), "factor_sweep: ", name, " must be on the device of factors");
}

inline void check_samples(const SweepInputs& in) {
  const auto& f = in.factors;
  const auto dtype = f.scalar_type();
  require(in.x.dim() == 2 && in.y.dim() == 2 && in.x.size(0) == in.y.size(0) &&
              in.x.size(1) * in.y.size(1) == f.size(2),
          "factor_sweep: x (samples, inputs) and y (samples, outputs) must have inputs times "
          "outputs weights, ",
          f.size(2));
  require(in.x.size(0) < (std::int64_t{1} << 31), "factor_sweep: at most 2^31 - 1 samples");
  check_rows(in.x, "x", in.x.size(0), in.x.size(1), dtype, f);
  check_rows(in.y, "y", in.x.size(0), in.y.size(1), dtype, f);
  const auto random = in.noise.dim() == 2 && in.noise.size(1) == 0 ? 0 : f.size(0);
  check_rows(in.noise, "noise", 2, random, dtype, f);
  check_rows(in.draws, "draws", 3, random, ScalarType::Long, f);
  require(in.first_step >= 0, "factor_sweep: first_step must not be negative");
}

// Adam's second moment (B, D, d), beta2 and epsilon in the rows of moments; empty for SGD.
inline void check_moments(const SweepInputs& in) {
  const auto& f = in.factors;
  require(in.rule >= 0 && in.rule <= 2, "factor_sweep: rule must be 0, 1 or 2, got ", in.rule);
  const bool adaptive = in.rule != 0;
  require(in.second.dim() == 3 && in.second.size(0) == f.size(0) &&
              in.second.size(1) == (adaptive ? f.size(1) : 0) && in.second.size(2) == f.size(2) &&
              in.second.scalar_type() == f.scalar_type() && in.second.device() == f.device(),
          "factor_sweep: second must match factors, without slots for SGD, got ",
          sizes_of(in.second));
  check_rows(in.moments, "moments", 2, adaptive ? f.size(0) : 0, f.scalar_type(), f);
  require(!adaptive || in.noise.size(1) == f.size(0),
          "factor_sweep: Adam needs noise and draws of every replica, zeros if there are none");
}

inline void check(const SweepInputs& in) {
  const auto& f = in.factors;
  require(f.dim() == 3, "factor_sweep: factors must have shape (replicas, depth, d), got ",
          sizes_of(f));
  const auto replicas = f.size(0), slots = f.size(1), d = f.size(2);
  const auto dtype = f.scalar_type();
  require(dtype == ScalarType::Double || dtype == ScalarType::Float,
          "factor_sweep: factors must be float32 or float64");
  require(slots >= 1 && slots <= kMaxDepth, "factor_sweep: depth must be 1 to ", kMaxDepth,
          ", got ", slots);
  require(sizes_of(in.velocity) == sizes_of(f) && in.velocity.scalar_type() == dtype &&
              in.velocity.device() == f.device(),
          "factor_sweep: velocity must match factors in shape, dtype and device");
  require(in.gram.dim() == 2 && in.gram.size(0) == d && in.gram.size(1) == d &&
              in.gram.scalar_type() == dtype && in.gram.device() == f.device(),
          "factor_sweep: gram must have shape (", d, ", ", d,
          ") and the dtype and device of factors");
  check_vector(in.linear, "linear", d, dtype, f);
  check_vector(in.factored, "factored", d, ScalarType::Bool, f);
  check_vector(in.depth, "depth", replicas, ScalarType::Long, f);
  check_vector(in.lr, "lr", replicas, dtype, f);
  check_vector(in.momentum, "momentum", replicas, dtype, f);
  check_vector(in.lam, "lam", replicas, dtype, f);
  check_schedule(in.schedule, "schedule", in.schedule, f);
  check_schedule(in.lr_schedule, "lr_schedule", in.schedule, f);
  check_vector(in.kind, "kind", replicas, ScalarType::Long, f);
  check_vector(in.lr_kind, "lr_kind", replicas, ScalarType::Long, f);
  check_vector(in.group, "group", in.group.dim() == 1 && in.group.size(0) == 0 ? 0 : d,
               ScalarType::Long, f);
  check_samples(in);
  check_moments(in);
  check_vector(in.progress, "progress", 2, ScalarType::Long, f);
  require(in.progress.is_contiguous(), "factor_sweep: progress must be contiguous");
  require(in.check_every >= 1, "factor_sweep: check_every must be at least 1, got ",
          in.check_every);
}

// Rows of noise: labels, gradients. Rows of draws: seed, cell, batch size. No columns: no replica
// has random numbers.
template <typename T>
SampleArguments<T> sample_arguments(const SweepInputs& in, const Tensor& x, const Tensor& y,
                                    const Tensor& noise, const Tensor& draws) {
  const auto replicas = noise.size(1);
  if (replicas == 0)
    return {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {}, in.first_step};
  const T* const sigma = noise.const_data_ptr<T>();
  const std::int64_t* const number = draws.const_data_ptr<std::int64_t>();
  return {x.const_data_ptr<T>(),
          y.const_data_ptr<T>(),
          sigma,
          sigma + replicas,
          number,
          number + replicas,
          number + 2 * replicas,
          {x.size(0), x.size(1), y.size(1), in.by_output},
          in.first_step};
}

template <typename T>
SweepResult run(const SweepInputs& in, void (*launch)(const SweepArguments<T>&, const Tensor&)) {
  namespace st = torch::stable;
  const auto replicas = in.factors.size(0), d = in.factors.size(2);
  const Tensor gram = st::contiguous(in.gram), linear = st::contiguous(in.linear),
               factored = st::contiguous(in.factored), depth = st::contiguous(in.depth),
               lr = st::contiguous(in.lr), momentum = st::contiguous(in.momentum),
               lam = st::contiguous(in.lam), schedule = st::contiguous(in.schedule),
               kind = st::contiguous(in.kind), lr_schedule = st::contiguous(in.lr_schedule),
               lr_kind = st::contiguous(in.lr_kind), group = st::contiguous(in.group),
               x = st::contiguous(in.x), y = st::contiguous(in.y), noise = st::contiguous(in.noise),
               draws = st::contiguous(in.draws), moments = st::contiguous(in.moments);
  // Standard strides even if the inputs are permuted: clone() alone would keep their layout.
  const Tensor factors = st::new_empty(in.factors, in.factors.sizes());
  const Tensor velocity = st::new_empty(in.factors, in.factors.sizes());
  const Tensor second = st::new_empty(in.factors, in.second.sizes());
  Tensor factors_out = factors, velocity_out = velocity, second_out = second;
  st::copy_(factors_out, in.factors);
  st::copy_(velocity_out, in.velocity);
  st::copy_(second_out, in.second);
  const Tensor weight = st::new_empty(in.factors, {replicas, d});
  const Tensor residual = st::new_empty(in.factors, {replicas});
  const Tensor steps_used = st::new_empty(in.depth, {replicas});
  const Tensor status = st::new_empty(in.depth, {replicas});
  const SweepArguments<T> arguments{
      gram.const_data_ptr<T>(),
      linear.const_data_ptr<T>(),
      factored.const_data_ptr<bool>(),
      depth.const_data_ptr<std::int64_t>(),
      lr.const_data_ptr<T>(),
      momentum.const_data_ptr<T>(),
      lam.const_data_ptr<T>(),
      schedule.const_data_ptr<T>(),
      kind.const_data_ptr<std::int64_t>(),
      lr_schedule.const_data_ptr<T>(),
      lr_kind.const_data_ptr<std::int64_t>(),
      group.size(0) ? group.const_data_ptr<std::int64_t>() : nullptr,
      weight.mutable_data_ptr<T>(),
      factors.mutable_data_ptr<T>(),
      velocity.mutable_data_ptr<T>(),
      steps_used.mutable_data_ptr<std::int64_t>(),
      residual.mutable_data_ptr<T>(),
      status.mutable_data_ptr<std::int64_t>(),
      in.progress.mutable_data_ptr<std::int64_t>(),
      sample_arguments<T>(in, x, y, noise, draws),
      {static_cast<Optimizer>(in.rule), second.mutable_data_ptr<T>(), moments.const_data_ptr<T>(),
       moments.const_data_ptr<T>() + moments.size(1)},
      schedule.size(0),
      lr_schedule.size(0),
      replicas,
      d,
      in.factors.size(1),
      schedule.size(1),
      in.check_every,
      static_cast<T>(in.tol)};
  if (replicas > 0) launch(arguments, in.factors);
  return {weight, factors, velocity, steps_used, residual, status, second};
}

}  // namespace sweep_detail

// Checks the inputs, allocates the outputs and calls the launcher of the dtype.
inline SweepResult run_sweep(const SweepInputs& in,
                             void (*launch_double)(const SweepArguments<double>&, const Tensor&),
                             void (*launch_float)(const SweepArguments<float>&, const Tensor&)) {
  sweep_detail::check(in);
  if (in.factors.scalar_type() == ScalarType::Double)
    return sweep_detail::run<double>(in, launch_double);
  return sweep_detail::run<float>(in, launch_float);
}

}  // namespace symfast
