// SPDX-License-Identifier: Apache-2.0
// The CUDA sweep as plain functions of pointers, sizes and a stream; no torch.
#pragma once
#include <stdexcept>
#include <string>

#include "factor_moments.cuh"
#include "launch.h"

namespace symfast {

template <typename T, int D, int P>
void launch_sweep_teams(const SweepArguments<T>& a, void* stream) {
  constexpr int64_t kTeams = kTeamBlock / P;
  launch(sweep_by_team<T, D, P>, {(a.replicas + kTeams - 1) / kTeams, kTeamBlock, 0, stream}, a);
}

// Bytes of d weights in `buffers` and of `others` more numbers, if a block may have so many.
template <typename T>
int block_bytes(const SweepArguments<T>& a, int64_t buffers, int64_t others, int64_t most_shared) {
  constexpr int64_t kSize = sizeof(T), kStatic = 8 * kReplicaBlock / kWarp + 8 * kSampleTile;
  const int64_t most = (most_shared - kStatic - others * kSize) / (buffers * kSize);
  if (a.d > most) {
    throw std::runtime_error("symfast: " + std::to_string(a.d) +
                             " weights do not fit this GPU's "
                             "shared memory, which holds " +
                             std::to_string(most));
  }
  return static_cast<int>((buffers * a.d + others) * kSize);
}

template <typename T, int D>
void launch_sweep_blocks(const SweepArguments<T>& a, void* stream, int most_shared) {
  // three buffers of weights; with gates, gradients and own factors
  const int bytes = block_bytes(a, a.group ? 5 : 3, 0, most_shared);
  launch(sweep_by_block<T, D>, {a.replicas, kReplicaBlock, bytes, stream}, a);
}

// One of the kernels with gradients in memory: of the replicas with minibatches or noise, or of
// all.
template <typename T>
void launch_sweep_samples(void (*kernel)(SweepArguments<T>), const SweepArguments<T>& a,
                          void* stream, int most_shared) {
  const int64_t outputs = a.samples.shape.outputs;
  const int bytes = block_bytes(a, 5, samples_of_tile(outputs) * outputs, most_shared);
  const int threads = a.d <= kWarp ? kWarp : kSampleBlock;
  launch(kernel, {a.replicas, threads, bytes, stream}, a);
}

template <typename T, int D>
void launch_sweep_depth(const SweepArguments<T>& a, void* stream, int most_shared) {
  if (a.moments.rule != Optimizer::sgd)
    return launch_sweep_samples(sweep_by_moments<T, D>, a, stream, most_shared);
  if (a.samples.batch) launch_sweep_samples(sweep_by_samples<T, D>, a, stream, most_shared);
  if (a.group) return launch_sweep_blocks<T, D>(a, stream, most_shared);
  if (a.d <= 8) return launch_sweep_teams<T, D, 8>(a, stream);
  if (a.d <= 16) return launch_sweep_teams<T, D, 16>(a, stream);
  if (a.d <= 32) return launch_sweep_teams<T, D, 32>(a, stream);
  launch_sweep_blocks<T, D>(a, stream, most_shared);
}

// The whole sweep, `most_shared` bytes of dynamic shared memory allowed to a block.
template <typename T>
void launch_sweep(const SweepArguments<T>& a, void* stream, int most_shared) {
  if (a.max_depth <= 2) {
    launch_sweep_depth<T, 2>(a, stream, most_shared);
  } else if (a.max_depth <= 4) {
    launch_sweep_depth<T, 4>(a, stream, most_shared);
  } else {
    launch_sweep_depth<T, 6>(a, stream, most_shared);
  }
  launch(report_progress, {1, kWarp, 0, stream}, a.progress, a.replicas * a.steps);
}

}  // namespace symfast
