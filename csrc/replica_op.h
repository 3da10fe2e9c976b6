// SPDX-License-Identifier: Apache-2.0
// The torch side of symfast::replica_sweep_, shared by the CPU and the CUDA registration: checks
// that protect memory, plain pointers for the kernel.
#pragma once

#include <cstdint>

#include "replica.h"
#include "tensor.h"

namespace symfast {

struct ReplicaInputs {
  Tensor x, y, theta, first, second, rates, schedule, kind, seed, cell, batch, constraint, offsets,
      members, directions, status, taken, progress;
  std::int64_t hidden;
  bool bias;
  std::int64_t activation, loss, rule, first_step;
};

namespace replica_detail {

inline void check_tensor(const Tensor& x, const char* name, std::int64_t rows, std::int64_t columns,
                         ScalarType dtype, const Tensor& like) {
  const bool vector = columns < 0;
  const bool fits = vector ? x.dim() == 1 && x.size(0) == rows
                           : x.dim() == 2 && x.size(0) == rows && x.size(1) == columns;
  require(fits, "replica_sweep_: ", name, " has the wrong shape ", sizes_of(x));
  require(x.scalar_type() == dtype, "replica_sweep_: ", name, " has the wrong dtype");
  require(x.device() == like.device(), "replica_sweep_: ", name, " must be on the device of theta");
  require(x.is_contiguous(), "replica_sweep_: ", name, " must be contiguous");
}

inline ReplicaShape shape_of(const ReplicaInputs& in) {
  require(in.x.dim() == 2 && in.y.dim() == 2 && in.x.size(0) == in.y.size(0) && in.x.size(0) > 0,
          "replica_sweep_: x and y must be matrices with a row for each sample");
  const ReplicaShape shape{in.x.size(1), in.hidden, in.y.size(1), in.bias};
  require(shape.inputs >= 1 && shape.inputs <= kMostInputs && shape.hidden >= 1 &&
              shape.hidden <= kMostHidden && shape.outputs >= 1 && shape.outputs <= kMostOutputs,
          "replica_sweep_: a network may have up to ", kMostInputs, " inputs, ", kMostHidden,
          " hidden units and ", kMostOutputs, " outputs");
  return shape;
}

inline void check(const ReplicaInputs& in) {
  const auto& theta = in.theta;
  require(theta.dim() == 2, "replica_sweep_: theta must have shape (replicas, parameters)");
  const auto dtype = theta.scalar_type();
  require(dtype == ScalarType::Double || dtype == ScalarType::Float,
          "replica_sweep_: theta must be float32 or float64");
  require(in.activation >= 0 && in.activation <= 2 && in.loss >= 0 && in.loss <= 1 &&
              in.rule >= 0 && in.rule <= 2 && in.first_step >= 0,
          "replica_sweep_: unknown activation, loss or rule, or a negative step");
  const auto shape = shape_of(in);
  const auto replicas = theta.size(0), parameters = shape.parameters();
  require(in.schedule.dim() == 2, "replica_sweep_: schedule must have shape (kinds, steps)");
  check_tensor(theta, "theta", replicas, parameters, dtype, theta);
  check_tensor(in.first, "first", replicas, parameters, dtype, theta);
  check_tensor(in.second, "second", replicas, in.rule == 0 ? 0 : parameters, dtype, theta);
  check_tensor(in.x, "x", in.x.size(0), shape.inputs, dtype, theta);
  check_tensor(in.y, "y", in.x.size(0), shape.outputs, dtype, theta);
  check_tensor(in.rates, "rates", kRates, replicas, dtype, theta);
  check_tensor(in.schedule, "schedule", in.schedule.size(0), in.schedule.size(1), dtype, theta);
  check_tensor(in.kind, "kind", replicas, -1, ScalarType::Long, theta);
  check_tensor(in.seed, "seed", replicas, -1, ScalarType::Long, theta);
  check_tensor(in.cell, "cell", replicas, -1, ScalarType::Long, theta);
  check_tensor(in.batch, "batch", replicas, -1, ScalarType::Long, theta);
  check_tensor(in.constraint, "constraint", replicas, -1, ScalarType::Long, theta);
  require(in.offsets.dim() == 1 && in.members.dim() == 1 && in.offsets.size(0) > 0 &&
              in.directions.dim() == 2,
          "replica_sweep_: offsets (groups + 1,), members and directions (rows, hidden) expected");
  check_tensor(in.offsets, "offsets", in.offsets.size(0), -1, ScalarType::Long, theta);
  check_tensor(in.members, "members", in.members.size(0), -1, ScalarType::Long, theta);
  check_tensor(in.directions, "directions", in.directions.size(0), in.hidden, dtype, theta);
  check_tensor(in.status, "status", replicas, -1, ScalarType::Long, theta);
  check_tensor(in.taken, "taken", replicas, -1, ScalarType::Long, theta);
  check_tensor(in.progress, "progress", 2, -1, ScalarType::Long, theta);
}

// Pointers into the inputs; a device that wants memory for gradients brings it.
template <typename T>
ReplicaArguments<T> arguments_of(const ReplicaInputs& in) {
  const ReplicaModel model{shape_of(in), static_cast<Activation>(in.activation),
                           static_cast<Loss>(in.loss), static_cast<Optimizer>(in.rule)};
  return {in.x.const_data_ptr<T>(),
          in.y.const_data_ptr<T>(),
          in.theta.mutable_data_ptr<T>(),
          in.first.mutable_data_ptr<T>(),
          in.second.mutable_data_ptr<T>(),
          in.rates.const_data_ptr<T>(),
          in.schedule.const_data_ptr<T>(),
          in.kind.const_data_ptr<std::int64_t>(),
          in.seed.const_data_ptr<std::int64_t>(),
          in.cell.const_data_ptr<std::int64_t>(),
          in.batch.const_data_ptr<std::int64_t>(),
          in.constraint.const_data_ptr<std::int64_t>(),
          in.status.mutable_data_ptr<std::int64_t>(),
          in.taken.mutable_data_ptr<std::int64_t>(),
          nullptr,
          in.progress.mutable_data_ptr<std::int64_t>(),
          {in.offsets.const_data_ptr<std::int64_t>(), in.members.const_data_ptr<std::int64_t>(),
           in.directions.const_data_ptr<T>(), in.offsets.size(0) - 1, in.members.size(0),
           in.directions.size(0)},
          model,
          in.x.size(0),
          in.schedule.size(0),
          in.theta.size(0),
          in.first_step,
          in.schedule.size(1)};
}

}  // namespace replica_detail

// symfast::replica_sweep_ where `Device` lives during a call and launches:
// device.launch(arguments).
template <typename Device>
void replica_sweep(const Tensor& x, const Tensor& y, const Tensor& theta, const Tensor& first,
                   const Tensor& second, const Tensor& rates, const Tensor& schedule,
                   const Tensor& kind, const Tensor& seed, const Tensor& cell, const Tensor& batch,
                   const Tensor& constraint, const Tensor& offsets, const Tensor& members,
                   const Tensor& directions, const Tensor& status, const Tensor& taken,
                   const Tensor& progress, std::int64_t hidden, bool bias, std::int64_t activation,
                   std::int64_t loss, std::int64_t rule, std::int64_t first_step) {
  const Device device(theta);
  const ReplicaInputs in{x,        y,       theta,      first,  second, rates,
                         schedule, kind,    seed,       cell,   batch,  constraint,
                         offsets,  members, directions, status, taken,  progress,
                         hidden,   bias,    activation, loss,   rule,   first_step};
  replica_detail::check(in);
  if (theta.size(0) == 0) return;
  if (theta.scalar_type() == ScalarType::Double)
    device.launch(replica_detail::arguments_of<double>(in));
  else
    device.launch(replica_detail::arguments_of<float>(in));
}

}  // namespace symfast
