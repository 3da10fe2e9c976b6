// SPDX-License-Identifier: Apache-2.0
// What a block of the CUDA replica sweep works on: its memory, random numbers and rates.
#pragma once
#include "device.h"
#include "lanes.cuh"
#include "philox.h"
#include "replica.h"

namespace symfast {

constexpr int kReplicaThreads = 128;
constexpr int kTileSamples = 16;
constexpr int kTileStride = kTileSamples + 1;  // neighbouring rows in different banks

// Rows of kTileStride numbers a tile takes: inputs, hidden values and errors, outputs, targets.
SYMFAST_SWEEP_INLINE std::int64_t tile_rows(const ReplicaShape& shape) {
  return shape.inputs + 2 * shape.hidden + 2 * shape.outputs;
}

// Where a block keeps what it works on; theta and gradient in shared or in global memory.
template <typename T, bool kShared>
struct ReplicaMemory {
  T *theta, *gradient;
  T *x, *active, *delta, *output, *target;  // (rows, kTileStride), a column for each sample

  SF_DEVICE ReplicaMemory(const ReplicaArguments<T>& a, std::int64_t b) {
    const ReplicaShape& shape = a.model.shape;
    const std::int64_t parameters = shape.parameters();
    x = reinterpret_cast<T*>(shared_memory());
    active = x + shape.inputs * kTileStride;
    delta = active + shape.hidden * kTileStride;
    output = delta + shape.hidden * kTileStride;
    target = output + shape.outputs * kTileStride;
    theta = kShared ? target + shape.outputs * kTileStride : a.theta + b * parameters;
    gradient = kShared ? theta + parameters : a.gradient + b * parameters;
  }
  SF_DEVICE T get(const T* p) const {
    if constexpr (kShared) {
      return *p;
    } else {
      return load(p);
    }
  }
  SF_DEVICE void put(T* p, T value) const {
    if constexpr (kShared) {
      *p = value;
    } else {
      store(p, value);
    }
  }
};

// An index known at run time only would put the words into local memory.
SF_DEVICE std::uint32_t pick_word(const PhiloxWords<std::uint64_t>& words, int i) {
  const std::uint64_t low = i == 0 ? words.word[0] : words.word[1];
  const std::uint64_t high = i == 2 ? words.word[2] : words.word[3];
  return static_cast<std::uint32_t>(i < 2 ? low : high);
}

template <typename T>
SF_DEVICE T normal_of(std::uint64_t seed, RandomPurpose purpose, std::int64_t cell,
                      std::int64_t step, std::int64_t element) {
  const RandomStream stream{seed, purpose, static_cast<std::uint32_t>(cell),
                            static_cast<std::uint32_t>(step)};
  const auto words = random_block(stream, static_cast<std::uint64_t>(element / 4));
  const int first = element % 4 < 2 ? 0 : 2;
  const auto pair = normal_pair<float>(pick_word(words, first), pick_word(words, first + 1));
  return static_cast<T>(element % 2 ? pair.second : pair.first);
}

// Rates of one step; the powers run on from step to step.
template <typename T>
SF_DEVICE void set_rates(StepRates<T>& r, T lr, Optimizer rule, std::int64_t taken, double& power1,
                         double& power2) {
  r.lr = lr;
  if (rule == Optimizer::sgd) return;
  r.shrink = Arithmetic<T>::multiply_add(-lr, r.decay, T(1));
  power1 = next_power(power1, static_cast<double>(r.momentum), taken);
  power2 = next_power(power2, static_cast<double>(r.beta2), taken);
  r.rate = static_cast<T>(static_cast<double>(lr) / (1 - power1));
  r.rescale = static_cast<T>(1 / Lanes<double>::root(1 - power2));
}

}  // namespace symfast
