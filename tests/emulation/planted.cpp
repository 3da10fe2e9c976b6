// SPDX-License-Identifier: Apache-2.0
// Kernels with one bug each, and a sound one: the test of the tests.
#include "lanes.cuh"
#include "launch.h"

namespace symfast {
namespace {

struct Arguments {
  const float* in;
  float* out;
  int count;
};

// out[i] = in[threads - 1 - i], through shared memory.
SF_KERNEL(256, 1) sound(SF_ARGUMENT Arguments a) {
  SF_SHARED(float, tile, [256]);
  const int i = threadIdx.x, threads = blockDim.x;
  tile[i] = load(a.in + i);
  __syncthreads();
  store(a.out + i, tile[threads - 1 - i]);
}

SF_KERNEL(256, 1) missing_barrier(SF_ARGUMENT Arguments a) {
  SF_SHARED(float, tile, [256]);
  const int i = threadIdx.x, threads = blockDim.x;
  tile[i] = load(a.in + i);
  store(a.out + i, tile[threads - 1 - i]);
}

// The barrier before the second round of writes is missing: wrong in one order of threads only.
SF_KERNEL(256, 1) missing_second_barrier(SF_ARGUMENT Arguments a) {
  SF_SHARED(float, tile, [256]);
  const int i = threadIdx.x, threads = blockDim.x;
  for (int round = 0; round < 2; ++round) {
    tile[i] = load(a.in + i) + round;
    __syncthreads();
    store(a.out + i, tile[(i + 1) % threads]);
  }
}

SF_KERNEL(256, 1) divergent_barrier(SF_ARGUMENT Arguments a) {
  const int i = threadIdx.x;
  if (i % 2 == 0) {
    __syncthreads();
  } else {
    store(a.out + i, 1.0f);
    __syncthreads();
  }
}

SF_KERNEL(256, 1) barrier_after_return(SF_ARGUMENT Arguments a) {
  if (static_cast<int>(threadIdx.x) >= a.count - 7) return;
  __syncthreads();
  store(a.out + threadIdx.x, 1.0f);
}

SF_KERNEL(256, 1) unwritten_shared(SF_ARGUMENT Arguments a) {
  SF_SHARED(float, tile, [257]);
  tile[threadIdx.x] = load(a.in + threadIdx.x);
  __syncthreads();
  store(a.out + threadIdx.x, tile[threadIdx.x + 1]);
}

SF_KERNEL(256, 1) load_behind_end(SF_ARGUMENT Arguments a) {
  const Pack<float, 4> pack = load_pack<4>(a.in + threadIdx.x * 4);  // count is no multiple of 4
  store(a.out + threadIdx.x, pack.get(0));
}

SF_KERNEL(256, 1) misaligned_pack(SF_ARGUMENT Arguments a) {
  if (threadIdx.x == 0) store_pack<4>(a.out + 4, load_pack<4>(a.in));
}

SF_KERNEL(256, 1) shared_overrun(SF_ARGUMENT Arguments a) {
  SF_SHARED(float, tile, [256]);
  tile[threadIdx.x + 257 - blockDim.x] = load(a.in + threadIdx.x);
  __syncthreads();
  store(a.out + threadIdx.x, tile[threadIdx.x + 256 - blockDim.x]);
}

SF_KERNEL(256, 1) shuffle_in_branch(SF_ARGUMENT Arguments a) {
  float x = load(a.in + threadIdx.x);
  if (threadIdx.x % 32 < 16) x += __shfl_xor_sync(kAllLanes, x, 1);
  store(a.out + threadIdx.x, x);
}

SF_KERNEL(256, 1) missing_warp_sync(SF_ARGUMENT Arguments a) {
  SF_SHARED(float, tile, [256]);
  const int i = threadIdx.x;
  tile[i] = load(a.in + i);
  const float x = __shfl_xor_sync(kAllLanes, tile[i], 1);  // orders no memory
  store(a.out + i, x + tile[i ^ 2]);
}

SF_KERNEL(256, 1) blocks_race(SF_ARGUMENT Arguments a) {
  if (threadIdx.x == 0) store(a.out, static_cast<float>(blockIdx.x));
}

void (*const kKernels[])(const Arguments) = {sound,
                                             missing_barrier,
                                             missing_second_barrier,
                                             divergent_barrier,
                                             barrier_after_return,
                                             unwritten_shared,
                                             load_behind_end,
                                             misaligned_pack,
                                             shared_overrun,
                                             shuffle_in_branch,
                                             missing_warp_sync,
                                             blocks_race};

}  // namespace

extern "C" void run_planted(int number, const float* in, float* out, int count, int blocks) {
  launch(kKernels[number], {blocks, 256, 0, nullptr}, Arguments{in, out, count});
}

}  // namespace symfast
