// SPDX-License-Identifier: Apache-2.0
// What a CPU thread of the product-factor sweep does with a block of replicas.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "factor_sweep.h"
#include "lane_blocks.h"
#include "subnormals.h"

namespace symfast {

// The hot loops of an instruction set: SGD without and with random numbers, Adam and AdamW.
template <typename T>
struct Advance {
  void (*plain)(const FactorBlock<T>&, std::int64_t);
  void (*random)(const FactorBlock<T>&, std::int64_t);
  void (*moments)(const FactorBlock<T>&, std::int64_t);
};

template <typename T>
GradientSource source_of(const SweepArguments<T>& a, std::int64_t b) {
  const SampleArguments<T>& s = a.samples;
  if (!s.batch) return GradientSource::gram;
  return gradient_source(s.batch[b], s.label_noise[b], s.gradient_noise[b]);
}

// Rows of the data in a step of a replica that takes its gradient from them.
template <typename T>
std::int64_t rows_of(const SweepArguments<T>& a, std::int64_t b) {
  return a.samples.batch[b] > 0 ? a.samples.batch[b] : a.samples.shape.samples;
}

// Memory and bookkeeping of the block a thread is working on; reused for its next block.
template <typename T>
class Worker {
 public:
  static constexpr std::int64_t kLanes = kSweepLanes<T>;

  // `most_batch` rows in a step of any replica; 0 if none has random numbers.
  Worker(const SweepArguments<T>& a, const Advance<T>& advance, std::int64_t most_batch)
      : a_(a),
        progress_(a.progress),
        advance_(advance),
        memory_(a.d * kLanes * (4 + (adaptive() ? 3 : 2) * a.max_depth)),
        batch_(most_batch * (a.samples.shape.inputs + a.samples.shape.outputs)),
        scratch_((std::max(a.d, most_batch * a.samples.shape.outputs) + 3) * kLanes) {
    const std::int64_t row = a.d * kLanes;
    T* const memory = memory_.get();
    previous_ = memory + 2 * row;
    T* const factor = memory + 4 * row;
    block_ = {a.gram,
              a.linear,
              a.factored,
              a.group,
              a.d,
              0,
              memory,
              memory + row,
              memory + 3 * row,
              factor,
              factor + row * a.max_depth,
              lr_,
              momentum_,
              decay_,
              nullptr,
              nullptr,
              {},
              {a.moments.rule, factor + 2 * row * a.max_depth, epsilon_, beta2_, rate1_, rate2_,
               power1_, power2_}};
    bind_samples(most_batch);
  }

  void run(const LaneBlock& lane_block) {
    const auto [members, count] = lane_block;
    const FlushSubnormals flush;
    load(members, count);
    const T* const schedule = a_.schedule + a_.kind[members[0]] * a_.steps;
    const T* const lr_schedule = a_.lr_schedule + a_.lr_kind[members[0]] * a_.steps;
    const auto advance = adaptive()                                      ? advance_.moments
                         : block_.samples.source == GradientSource::gram ? advance_.plain
                                                                         : advance_.random;
    std::int64_t done = 0, reported = 0, alive = count;
    SweepStatus ending = SweepStatus::finished;
    while (done < a_.steps && alive > 0) {
      if (progress_.cancelled()) {
        ending = SweepStatus::cancelled;
        break;
      }
      std::memcpy(previous_, block_.weight, sizeof(T) * static_cast<std::size_t>(a_.d * kLanes));
      const std::int64_t chunk = std::min(a_.check_every, a_.steps - done);
      block_.schedule = schedule + done;
      block_.lr_schedule = lr_schedule + done;
      block_.samples.step = a_.samples.first_step + done;
      advance(block_, chunk);
      if (chunk % 2 == 1) std::swap(block_.weight, block_.next);
      done += chunk;
      alive -= retire(members, count, done);
      reported += count * chunk;
      progress_.report(count * chunk);
    }
    for (std::int64_t lane = 0; lane < count; ++lane)
      if (alive_[lane]) store(members[lane], lane, done, ending);
    if (ending != SweepStatus::cancelled) progress_.report(count * a_.steps - reported);
  }

 private:
  bool adaptive() const { return a_.moments.rule != Optimizer::sgd; }

  // Where the data and the random numbers of a block lie.
  void bind_samples(std::int64_t most_batch) {
    SampleBlock<T>& s = block_.samples;
    s.shape = a_.samples.shape;
    s.x = a_.samples.x;
    s.y = a_.samples.y;
    s.batch_x = batch_.get();
    s.batch_y = s.batch_x + most_batch * s.shape.inputs;
    s.scratch = scratch_.get();
    s.label_noise = label_noise_;
    s.gradient_noise = gradient_noise_;
    s.cell = cell_;
  }

  void load(const std::int64_t* members, std::int64_t count) {
    const std::int64_t depth = a_.depth[members[0]];
    block_.depth = depth;
    load_samples(members, count);
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      alive_[lane] = lane < count;
      residual_[lane] = std::numeric_limits<T>::infinity();
      // Idle lanes repeat the first replica: ordinary numbers, never looked at.
      const std::int64_t b = members[lane < count ? lane : 0];
      lr_[lane] = a_.lr[b];
      momentum_[lane] = a_.momentum[b];
      decay_[lane] = T(2) * a_.lam[b] / static_cast<T>(depth);
      if (adaptive()) load_moments(b, lane);
      for (std::int64_t i = 0; i < a_.d; ++i) {
        const std::int64_t used = a_.factored[i] ? depth : 1;
        T weight = T(1);
        for (std::int64_t j = 0; j < depth; ++j) {
          const std::int64_t from = (b * a_.max_depth + j) * a_.d + i;
          const std::int64_t to = (i * depth + j) * kLanes + lane;
          block_.factor[to] = a_.factors[from];
          block_.velocity[to] = a_.velocity[from];
          if (adaptive()) block_.moments.second[to] = a_.moments.second[from];
        }
        // The order of multiplication of `product`, so that zero steps change nothing.
        for (std::int64_t j = used - 1; j >= 0; --j)
          weight *= block_.factor[(i * depth + j) * kLanes + lane];
        block_.weight[i * kLanes + lane] = weight;
      }
    }
  }

  void load_moments(std::int64_t b, std::int64_t lane) {
    const std::int64_t taken = a_.samples.first_step;
    epsilon_[lane] = a_.moments.epsilon[b];
    beta2_[lane] = a_.moments.beta2[b];
    rate1_[lane] = static_cast<double>(a_.momentum[b]);
    rate2_[lane] = static_cast<double>(a_.moments.beta2[b]);
    power1_[lane] = power_after(rate1_[lane], taken);
    power2_[lane] = power_after(rate2_[lane], taken);
  }

  // Seed, batch and noise of the members.
  void load_samples(const std::int64_t* members, std::int64_t count) {
    const SampleArguments<T>& from = a_.samples;
    SampleBlock<T>& s = block_.samples;
    s.source = source_of(a_, members[0]);
    s.batch = s.source == GradientSource::samples ? rows_of(a_, members[0]) : 0;
    s.noisy_labels = s.noisy_gradient = false;
    if (s.source == GradientSource::gram) return;
    s.draws = from.batch[members[0]] > 0;
    s.seed = from.seed[members[0]];
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const std::int64_t b = members[lane < count ? lane : 0];
      cell_[lane] = from.cell[b];
      label_noise_[lane] = from.label_noise[b];
      gradient_noise_[lane] = from.gradient_noise[b];
      s.noisy_labels |= label_noise_[lane] != T(0);
      s.noisy_gradient |= gradient_noise_[lane] != T(0);
    }
  }

  // Writes the lanes that diverged or converged at this check and stops looking at them.
  std::int64_t retire(const std::int64_t* members, std::int64_t count, std::int64_t done) {
    T worst[kLanes] = {}, poison[kLanes] = {};
    for (std::int64_t i = 0; i < a_.d; ++i)
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const T w = block_.weight[i * kLanes + lane];
        const T change = std::abs(w - previous_[i * kLanes + lane]);
        worst[lane] = change > worst[lane] ? change : worst[lane];
        poison[lane] += T(0) * w;  // NaN as soon as one weight is not finite
      }
    std::int64_t retired = 0;
    for (std::int64_t lane = 0; lane < count; ++lane) {
      if (!alive_[lane]) continue;
      const bool diverged = std::isnan(poison[lane]);
      residual_[lane] = diverged ? std::numeric_limits<T>::quiet_NaN() : worst[lane];
      if (!diverged && !(worst[lane] < a_.tol)) continue;
      store(members[lane], lane, done, diverged ? SweepStatus::diverged : SweepStatus::converged);
      alive_[lane] = false;
      ++retired;
    }
    return retired;
  }

  void store(std::int64_t b, std::int64_t lane, std::int64_t done, SweepStatus status) {
    a_.steps_used[b] = done;
    a_.residual[b] = residual_[lane];
    a_.status[b] = static_cast<std::int64_t>(status);
    for (std::int64_t i = 0; i < a_.d; ++i) {
      a_.weight[b * a_.d + i] = block_.weight[i * kLanes + lane];
      const std::int64_t used = a_.factored[i] ? block_.depth : 1;
      for (std::int64_t j = 0; j < used; ++j) {
        const std::int64_t to = (b * a_.max_depth + j) * a_.d + i;
        const std::int64_t from = (i * block_.depth + j) * kLanes + lane;
        a_.factors[to] = block_.factor[from];
        a_.velocity[to] = block_.velocity[from];
        if (adaptive()) a_.moments.second[to] = block_.moments.second[from];
      }
    }
  }

  const SweepArguments<T>& a_;
  const ProgressCounter progress_;
  const Advance<T> advance_;
  alignas(64) T label_noise_[kLanes];
  alignas(64) T gradient_noise_[kLanes];
  std::int64_t cell_[kLanes];
  alignas(64) T lr_[kLanes];
  alignas(64) T momentum_[kLanes];
  alignas(64) T decay_[kLanes];
  alignas(64) T epsilon_[kLanes];
  alignas(64) T beta2_[kLanes];
  alignas(64) double rate1_[kLanes], rate2_[kLanes], power1_[kLanes], power2_[kLanes];
  FactorBlock<T> block_{};
  T* previous_ = nullptr;  // weights at the last check
  T residual_[kLanes];
  bool alive_[kLanes];
  Aligned<T> memory_, batch_, scratch_;
};

}  // namespace symfast
