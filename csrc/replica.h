// SPDX-License-Identifier: Apache-2.0
// Whole trainings of many two-layer networks, shared by the CPU lanes and the CUDA threads.
//
// A replica is f(x) = W2 act(W1 x + b1) + b2 with parameters theta = (W1, b1, W2, b2), row-major.
// Step t of a replica draws the minibatch from (seed, t) and the noise from (seed, cell, t), forms
// the gradient g of the mean loss, and updates
//   sgd         push = g + c theta;  v <- m v + push;  theta <- theta - lr_t v
//   adam        g <- g + c theta, then Adam with bias correction;  adamw: theta <- (1 - lr_t c)
//               theta first, as torch.optim has them,
// and then applies the mirrors of its hidden units with the amount lr_t strength: unit_mirrors.h.
#pragma once

#include <cstdint>

#include "arithmetic.h"
#include "draws.h"
#include "elementary.h"
#include "step_rules.h"
#include "unit_mirrors.h"

namespace symfast {

constexpr std::int64_t kMostInputs = 256, kMostHidden = 256, kMostOutputs = 64;

enum class Activation : std::int64_t { identity = 0, relu = 1, tanh = 2 };
enum class Loss : std::int64_t { mse = 0, cross_entropy = 1 };
enum class ReplicaStatus : std::int64_t { finished = 0, diverged = 2, cancelled = 3 };

// Rows of the table of rates.
enum class Rate : std::int64_t {
  lr,
  decay,
  momentum,
  beta2,
  epsilon,
  label_noise,
  gradient_noise,
  strength
};
constexpr std::int64_t kRates = 8;

// Replicas are looked at for divergence when this divides the number of steps they have taken, so
// that it does not matter how a training is cut into calls.
constexpr std::int64_t kLookEvery = 64;

struct ReplicaShape {
  std::int64_t inputs, hidden, outputs;
  bool bias;

  SYMFAST_SWEEP_INLINE constexpr std::int64_t bias1() const { return hidden * inputs; }
  SYMFAST_SWEEP_INLINE constexpr std::int64_t weight2() const {
    return bias1() + (bias ? hidden : 0);
  }
  SYMFAST_SWEEP_INLINE constexpr std::int64_t bias2() const { return weight2() + outputs * hidden; }
  SYMFAST_SWEEP_INLINE constexpr std::int64_t parameters() const {
    return bias2() + (bias ? outputs : 0);
  }
};

// A column of the unit matrix of the hidden units (an input weight, the bias, an output weight):
// unit j has parameter base + j stride.
struct UnitColumn {
  std::int64_t base, stride;
};
SYMFAST_SWEEP_INLINE std::int64_t unit_columns(const ReplicaShape& shape) {
  return shape.inputs + (shape.bias ? 1 : 0) + shape.outputs;
}
SYMFAST_SWEEP_INLINE UnitColumn unit_column(const ReplicaShape& shape, std::int64_t column) {
  if (column < shape.inputs) return {column, shape.inputs};
  column -= shape.inputs;
  if (shape.bias && column == 0) return {shape.bias1(), 1};
  return {shape.weight2() + (column - (shape.bias ? 1 : 0)) * shape.hidden, 1};
}

struct ReplicaModel {
  ReplicaShape shape;
  Activation activation;
  Loss loss;
  Optimizer rule;
};

// A call as plain pointers; R replicas, P parameters. theta, first and second are updated in place.
template <typename T>
struct ReplicaArguments {
  const T* x;                      // (samples, inputs)
  const T* y;                      // (samples, outputs)
  T* theta;                        // (R, P)
  T* first;                        // (R, P), velocity or first moment
  T* second;                       // (R, P) second moment, not touched by sgd
  const T* rates;                  // (kRates, R)
  const T* schedule;               // (kinds, steps), factors of lr
  const std::int64_t* kind;        // (R), row of the schedule
  const std::int64_t* seed;        // (R)
  const std::int64_t* cell;        // (R), 0 .. 2^32 - 1
  const std::int64_t* batch;       // (R), 0: all samples in order
  const std::int64_t* constraint;  // (R), Constraint
  std::int64_t* status;            // (R), ReplicaStatus; only finished ones are trained
  std::int64_t* taken;             // (R), steps each replica has taken
  T* gradient;                     // (R, P) scratch on a GPU, where P is too much for a block
  std::int64_t* progress;          // (2): replica steps done so far; set [1] to cancel
  UnitMirrors<T> mirrors;
  ReplicaModel model;
  std::int64_t samples, kinds, replicas, first_step, steps;
};

template <typename V>
SYMFAST_SWEEP_INLINE V slope(Activation activation, V value, V g) {
  if (activation == Activation::relu) return value > V{} ? g : V{};
  if (activation == Activation::identity) return g;
  const V derivative =
      Arithmetic<V>::multiply_add(-value, value, fill<V>(typename Lanes<V>::Number(1)));
  return g * derivative;
}

// One CPU block: replicas of equal seed and batch size as structure of arrays, `lanes` of them.
template <typename T>
struct ReplicaBlock {
  ReplicaModel model;
  const T* x;
  const T* y;
  std::int64_t samples, batch;
  bool draws;                // false: the batch is all samples in order
  T* theta;                  // (P, lanes)
  T* first;                  // (P, lanes)
  T* second;                 // (P, lanes), adam only
  T* noise;                  // (max(P, outputs * batch), lanes), with noise only
  T* active;                 // (hidden, batch, lanes) values of the hidden units
  T* delta;                  // (kUnitBlock, batch, lanes) errors of a few hidden units
  T* output;                 // (outputs, batch, lanes), then the errors of the outputs
  T* batch_x;                // (batch, inputs)
  T* batch_y;                // (batch, outputs)
  const T* rates;            // (kRates, lanes)
  const T* const* schedule;  // (lanes) rows of factors, from the first step of the call on
  const std::int64_t* cell;  // (lanes)
  double* power1;            // (lanes), momentum^t
  double* power2;            // (lanes), beta2^t
  std::int64_t seed;
  UnitMirrors<T> mirrors;
  Constraint constraint;
  bool momentum, label_noise, gradient_noise;  // does any lane have it
};

// Hidden units whose values and errors are worked on together, while they are in the first cache.
constexpr std::int64_t kUnitBlock = 8;

}  // namespace symfast
