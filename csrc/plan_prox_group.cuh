// SPDX-License-Identifier: Apache-2.0
// Group prox of a plan: norms of the mirrors of a chunk, what they are shrunk by, and the
// shrinkage. Where each mirror of the launch lies in one chunk, by one block, of memory that is
// still near. Else a chunk has two blocks: one that finds norms as a launch of norms does, and one
// that shrinks, which waits for all of the first kind.
#pragma once
#include "mirror.h"
#include "plan.cuh"
#include "turns.cuh"

namespace symfast {

template <typename T>
struct ProxGroupArguments {
  PlanArguments<T> plan;      // amounts: `shrinkages`; add.sums: norms, or null: their roots are
  Accumulate<T>* shrinkages;  // one per partial sum
  const double* thresholds;   // by group, or null
  double threshold;           // where they are null
  int64_t* counters;          // two; null where no block waits for another
};

// What the mirrors of a chunk are shrunk by, to where slots_of looks for it.
template <typename T>
SF_DEVICE void find_shrinkages(const ProxGroupArguments<T>& a, const Work<T>& work) {
  const ChunkMirrors mirrors = chunk_mirrors(work.task, work.chunk);
  const int count = static_cast<int>(mirrors.count);
  const double* sums = a.plan.add.sums;
#pragma unroll 1
  for (int n = threadIdx.x; n < count; n += blockDim.x) {
    const int64_t place = work.chunk.partial + n;
    const double norm = sums ? load_fresh(sums + mirrors.first + n * mirrors.step)
                             : sqrt(load_fresh(a.plan.partials + place));
    const double threshold =
        a.thresholds ? load_table(a.thresholds + group_of(work.task, work.chunk, n)) : a.threshold;
    store(a.shrinkages + place, static_cast<Accumulate<T>>(group_shrinkage(norm, threshold)));
  }
}

// The blocks that have started, and those that have found norms or are to use them.
template <typename T>
SF_DEVICE Counter counter_of(const ProxGroupArguments<T>& a, int which) {
  return {a.counters + which, a.plan.add.tag, gridDim.x};
}

// A block's turn, in the order in which blocks start; by all its threads.
template <typename T>
SF_DEVICE int64_t take_turn(const ProxGroupArguments<T>& a) {
  SF_SHARED(int64_t, turn, [1]);
  if (threadIdx.x == 0) turn[0] = count_up(counter_of(a, 0));
  __syncthreads();
  return turn[0];
}

// Until the norms of all mirrors are there to be read; by all threads of a block.
template <typename T>
SF_DEVICE void wait_for_norms(const ProxGroupArguments<T>& a) {
  if (threadIdx.x == 0) {
    wait_for(counter_of(a, 1), gridDim.x / 2);
    count_up(counter_of(a, 1));
  }
  __syncthreads();
}

// A block for every chunk, or two. Without dense frames one needs less shared memory.
template <typename T, bool dense>
SF_KERNEL(kBlock, 2)
plan_prox_group(SF_ARGUMENT ProxGroupArguments<T> a) {
  SF_SHARED(int64_t, words, [kTaskFields + kChunkFields]);
  SF_SHARED(Slots, slots, [1]);
  int64_t number = blockIdx.x;
  bool measures = true;
  if (a.counters) {
    number = take_turn(a);
    measures = number < gridDim.x / 2;
    // the last chunk that was measured is the likeliest to be near
    if (!measures) number = gridDim.x - 1 - number;
  }
  read_chunk(a.plan, number, words, slots);
  if (measures) {
    apply_verb<kNorms, dense>(work_of(a.plan, words, slots));
    if (a.counters) {
      finish_norms(work_of(a.plan, words, slots), number);
      return arrive(counter_of(a, 1));
    }
    __syncthreads();
  } else {
    wait_for_norms(a);
  }
  // every part works it out again: no register holds it meanwhile
  find_shrinkages(a, work_of(a.plan, words, slots));
  __syncthreads();
  apply_verb<kShrinkFound, dense>(work_of(a.plan, words, slots));
}

}  // namespace symfast
