// SPDX-License-Identifier: Apache-2.0
// The CUDA replica sweep as plain functions of pointers, sizes and a stream; no torch.
#pragma once
#include "launch.h"
#include "replica.cuh"

namespace symfast {

template <typename T>
std::int64_t replica_tile_bytes(const ReplicaShape& shape) {
  return tile_rows(shape) * kTileStride * static_cast<std::int64_t>(sizeof(T));
}

// Whether weights and gradients of a replica fit into `most_shared` bytes beside the tile.
template <typename T>
bool replica_fits(const ReplicaShape& shape, std::int64_t most_shared) {
  constexpr std::int64_t kStatic = 1024;  // the kernel's own arrays
  const std::int64_t weights = 2 * shape.parameters() * static_cast<std::int64_t>(sizeof(T));
  return replica_tile_bytes<T>(shape) + weights + kStatic <= most_shared;
}

// All steps of all replicas, `most_shared` bytes of dynamic shared memory allowed to a block.
template <typename T>
void launch_replicas(const ReplicaArguments<T>& a, void* stream, std::int64_t most_shared) {
  const ReplicaShape& shape = a.model.shape;
  const std::int64_t tile = replica_tile_bytes<T>(shape);
  if (replica_fits<T>(shape, most_shared)) {
    const std::int64_t bytes = tile + 2 * shape.parameters() * static_cast<std::int64_t>(sizeof(T));
    launch(train_replica<T, true>, {a.replicas, kReplicaThreads, static_cast<int>(bytes), stream},
           a);
  } else {
    launch(train_replica<T, false>, {a.replicas, kReplicaThreads, static_cast<int>(tile), stream},
           a);
  }
  launch(report_replicas, {1, kWarp, 0, stream}, a.progress, a.replicas * a.steps);
}

}  // namespace symfast
