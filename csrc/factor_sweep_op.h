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
SampleArguments<T> sample_arguments(const SweepInputs& in) {
  const auto replicas = in.noise.size(1);
  if (replicas == 0)
    return {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {}, in.first_step};
  const T* const sigma = in.noise.const_data_ptr<T>();
  const std::int64_t* const number = in.draws.const_data_ptr<std::int64_t>();
  return {in.x.const_data_ptr<T>(),
          in.y.const_data_ptr<T>(),
          sigma,
          sigma + replicas,
          number,
          number + replicas,
          number + 2 * replicas,
          {in.x.size(0), in.x.size(1), in.y.size(1), in.by_output},
          in.first_step};
}

// The inputs without gaps, as kernels read them.
inline SweepInputs contiguous(SweepInputs in) {
  for (Tensor* x : {&in.gram, &in.linear, &in.depth, &in.factored, &in.lr, &in.momentum, &in.lam,
                    &in.moments, &in.schedule, &in.kind, &in.lr_schedule, &in.lr_kind, &in.group,
                    &in.x, &in.y, &in.noise, &in.draws})
    *x = torch::stable::contiguous(*x);
  return in;
}

// A copy in standard strides: clone() alone would keep the layout of permuted inputs.
inline Tensor copy_of(const Tensor& x) {
  Tensor copy = torch::stable::new_empty(x, x.sizes());
  torch::stable::copy_(copy, x);
  return copy;
}

inline SweepResult results(const SweepInputs& in) {
  namespace st = torch::stable;
  const auto replicas = in.factors.size(0), d = in.factors.size(2);
  return {st::new_empty(in.factors, {replicas, d}),
          copy_of(in.factors),
          copy_of(in.velocity),
          st::new_empty(in.depth, {replicas}),
          st::new_empty(in.factors, {replicas}),
          st::new_empty(in.depth, {replicas}),
          copy_of(in.second)};
}

// Pointers into contiguous inputs and into results.
template <typename T>
SweepArguments<T> arguments_of(const SweepInputs& in, const SweepResult& out) {
  const auto& [weight, factors, velocity, steps_used, residual, status, second] = out;
  const T* const moments = in.moments.const_data_ptr<T>();
  return {in.gram.const_data_ptr<T>(),
          in.linear.const_data_ptr<T>(),
          in.factored.const_data_ptr<bool>(),
          in.depth.const_data_ptr<std::int64_t>(),
          in.lr.const_data_ptr<T>(),
          in.momentum.const_data_ptr<T>(),
          in.lam.const_data_ptr<T>(),
          in.schedule.const_data_ptr<T>(),
          in.kind.const_data_ptr<std::int64_t>(),
          in.lr_schedule.const_data_ptr<T>(),
          in.lr_kind.const_data_ptr<std::int64_t>(),
          in.group.size(0) ? in.group.const_data_ptr<std::int64_t>() : nullptr,
          weight.mutable_data_ptr<T>(),
          factors.mutable_data_ptr<T>(),
          velocity.mutable_data_ptr<T>(),
          steps_used.mutable_data_ptr<std::int64_t>(),
          residual.mutable_data_ptr<T>(),
          status.mutable_data_ptr<std::int64_t>(),
          in.progress.mutable_data_ptr<std::int64_t>(),
          sample_arguments<T>(in),
          {static_cast<Optimizer>(in.rule), second.mutable_data_ptr<T>(), moments,
           moments + in.moments.size(1)},
          in.schedule.size(0),
          in.lr_schedule.size(0),
          in.factors.size(0),
          in.factors.size(2),
          in.factors.size(1),
          in.schedule.size(1),
          in.check_every,
          static_cast<T>(in.tol)};
}

}  // namespace sweep_detail

// symfast::factor_sweep where `Device` lives during a call and launches: device.launch(arguments).
template <typename Device>
SweepResult factor_sweep(const Tensor& gram, const Tensor& linear, const Tensor& factors,
                         const Tensor& velocity, const Tensor& second, const Tensor& depth,
                         const Tensor& factored, const Tensor& lr, const Tensor& momentum,
                         const Tensor& lam, const Tensor& moments, const Tensor& schedule,
                         const Tensor& kind, const Tensor& lr_schedule, const Tensor& lr_kind,
                         const Tensor& group, const Tensor& x, const Tensor& y, const Tensor& noise,
                         const Tensor& draws, bool by_output, std::int64_t rule,
                         std::int64_t first_step, double tol, std::int64_t check_every,
                         const Tensor& progress) {
  const Device device(factors);
  const SweepInputs given{
      gram,  linear,  factors,  velocity,  second,      depth,      factored,    lr, momentum,
      lam,   moments, schedule, kind,      lr_schedule, lr_kind,    group,       x,  y,
      noise, draws,   progress, by_output, rule,        first_step, check_every, tol};
  sweep_detail::check(given);
  const SweepInputs in = sweep_detail::contiguous(given);
  const SweepResult out = sweep_detail::results(in);
  if (factors.size(0) == 0) return out;
  if (factors.scalar_type() == ScalarType::Double)
    device.launch(sweep_detail::arguments_of<double>(in, out));
  else
    device.launch(sweep_detail::arguments_of<float>(in, out));
  return out;
}

}  // namespace symfast
