// SPDX-License-Identifier: Apache-2.0
// How the threads of a block share work: teams of a power of two threads, and sums over a team in
// an order that depends on nothing but its size.
#pragma once
#include "device.h"

namespace symfast {

constexpr int kBlock = 256;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The block's dynamic shared memory. Its address travels by this function alone: read back from a
// struct it would be any address, and every access a generic one.
SF_DEVICE unsigned char* shared_memory() {
  SF_DYNAMIC_SHARED(memory);
  return memory;
}

// The item that has this block of the grid: the last whose first block, first_block(item), is not
// after it.
template <typename FirstBlock>
SF_DEVICE int64_t item_of_block(int64_t items, int64_t block, const FirstBlock& first_block) {
  int64_t low = 0, high = items - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (first_block(middle) <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Smallest power of two >= n, at most `most` (itself a power of two).
SF_DEVICE int power_of_two(int64_t n, int most) {
  int power = 1;
  while (power < n && power < most) power *= 2;
  return power;
}

// A thread's place: member `lane` of team `team`, `teams` of `size` threads each.
struct Team {
  int size, lane, team, teams;
};

SF_DEVICE Team team_of(int size) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  return {size, thread % size, thread / size, threads / size};
}

// Sum over the lanes of every team; all threads of the block must call it. Teams are at most a warp
// wide, or the whole block; every lane gets the same bits.
template <int N, typename A>
SF_DEVICE void sum_over_team(const Team& team, A (&values)[N], A* scratch) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    for (int offset = 1; offset < team.size && offset < kWarp; offset *= 2) {
      values[n] += __shfl_xor_sync(kAllLanes, values[n], offset);
    }
  }
  if (team.size <= kWarp) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  __syncthreads();  // scratch may still be read from the call before
  if (static_cast<int>(threadIdx.x) % kWarp == 0) {
#pragma unroll
    for (int n = 0; n < N; ++n) scratch[warp * N + n] = values[n];
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < N; ++n) {
    values[n] = scratch[n];
    for (int w = 1; w < team.size / kWarp; ++w) values[n] += scratch[w * N + n];
  }
}

// Writes of a team to shared memory become visible to the team.
SF_DEVICE void sync_team(const Team& team) {
  if (team.size > kWarp) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

}  // namespace symfast
