// SPDX-License-Identifier: Apache-2.0
// What CUDA threads know of a replica of the product-factor sweep: coordinates, rates, its outcome.
#pragma once
#include "device.h"
#include "factor_sweep.h"

namespace symfast {

// What one thread keeps of one coordinate. Slots beyond the depth are 1 and have lr 0, so one
// instantiation serves replicas of every depth up to D without divergence.
template <typename T, int D>
struct Coordinate {
  T factor[D], velocity[D], lr[D], momentum, decay, weight;
  int used;
};

template <typename T>
SF_DEVICE int64_t depth_of(const SweepArguments<T>& a, int64_t b) {
  const int64_t depth = load_table(a.depth + b);
  return depth < 1 ? 1 : depth > a.max_depth ? a.max_depth : depth;
}

template <typename T, int D>
SF_DEVICE void read_coordinate(const SweepArguments<T>& a, int64_t b, int64_t i,
                               Coordinate<T, D>& c) {
  const int64_t depth = depth_of(a, b);
  const bool factored = load(a.factored + i);
  c.used = factored ? static_cast<int>(depth) : 1;
  c.momentum = load_table(a.momentum + b);
  c.decay = factored ? T(2) * load_table(a.lam + b) / static_cast<T>(depth) : T(0);
  const T lr = load_table(a.lr + b);
  const int64_t first = b * a.max_depth * a.d + i;
#pragma unroll
  for (int j = 0; j < D; ++j) {
    c.factor[j] = j < c.used ? load(a.factors + first + j * a.d) : T(1);
    c.velocity[j] = j < c.used ? load(a.velocity + first + j * a.d) : T(0);
    c.lr[j] = j < c.used ? lr : T(0);
  }
  c.weight = product<D>(c.factor);
}

template <typename T, int D>
SF_DEVICE void write_factors(const SweepArguments<T>& a, int64_t b, int64_t i,
                             const Coordinate<T, D>& c) {
  const int64_t first = b * a.max_depth * a.d + i;
#pragma unroll
  for (int j = 0; j < D; ++j) {
    if (j < c.used) {
      store(a.factors + first + j * a.d, c.factor[j]);
      store(a.velocity + first + j * a.d, c.velocity[j]);
    }
  }
}

// Largest change of a replica since its last check; NaN as soon as a weight is not finite.
template <typename T>
SF_DEVICE T worse(T a, T b) {
  return a >= b || a != a ? a : b;
}
template <typename T>
SF_DEVICE T change_of(T weight, T before) {
  const T change = weight > before ? weight - before : before - weight;
  return change + T(0) * weight;
}

// Factors of the penalty and of lr of a replica in a step of the call.
template <typename T>
struct StepFactors {
  T penalty, lr;
};
template <typename T>
SF_DEVICE StepFactors<T> factors_of(const SweepArguments<T>& a, int64_t b, int64_t step) {
  const int64_t kind = index_within(load_table(a.kind + b), a.kinds);
  const int64_t lr_kind = index_within(load_table(a.lr_kind + b), a.lr_kinds);
  return {load_table(a.schedule + kind * a.steps + step),
          load_table(a.lr_schedule + lr_kind * a.steps + step)};
}

template <typename T>
SF_DEVICE GradientSource source_of(const SweepArguments<T>& a, int64_t b) {
  const SampleArguments<T>& s = a.samples;
  if (!s.batch) return GradientSource::gram;
  return gradient_source(load_table(s.batch + b), load_table(s.label_noise + b),
                         load_table(s.gradient_noise + b));
}

// How a replica stands after a check; kept alike by all its threads.
template <typename T>
struct Outcome {
  int64_t done;
  T residual;
  SweepStatus status;
  bool alive;

  // Returns whether the replica ends here.
  SF_DEVICE bool check(T change, T tol) {
    residual = change;
    const bool diverged = change != change;
    if (!diverged && !(change < tol)) return false;
    status = diverged ? SweepStatus::diverged : SweepStatus::converged;
    return true;
  }
};

template <typename T>
SF_DEVICE Outcome<T> begin_outcome(const SweepArguments<T>& a) {
  const bool cancelled = load(a.progress + 1) != 0;  // looked at once: a launch is not interrupted
  const SweepStatus status = cancelled ? SweepStatus::cancelled : SweepStatus::finished;
  return {0, T(1) / T(0), status, !cancelled};
}

// By one thread of each replica.
template <typename T>
SF_DEVICE void write_outcome(const SweepArguments<T>& a, int64_t b, const Outcome<T>& o) {
  store(a.steps_used + b, o.done);
  store(a.residual + b, o.residual);
  store(a.status + b, static_cast<int64_t>(o.status));
}

}  // namespace symfast
