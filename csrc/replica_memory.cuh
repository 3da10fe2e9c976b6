// SPDX-License-Identifier: Apache-2.0
// What a block of the CUDA replica sweep works on: its memory and rates.
#pragma once
#include "device.h"
#include "draws.cuh"
#include "lanes.cuh"
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

}  // namespace symfast
