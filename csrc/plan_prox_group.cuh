// SPDX-License-Identifier: Apache-2.0
// Group prox of a plan: norms of the mirrors of a chunk, what they are shrunk by, and the
// shrinkage, of memory that is still near. Where mirrors lie in several chunks and all blocks run
// at once, they wait for each other before and after norms are added up.
#pragma once
#include "plan.cuh"
#include "plan_prox_group.h"

namespace symfast {

// Where the norms of a chunk's mirrors come from: its own sums of squares, those of all chunks,
// whose blocks run at once, or a launch before this one.
enum NormsFrom : int32_t { kOwn = 0, kTogether = 1, kGiven = 2 };

template <typename T>
struct ProxGroupArguments {
  PlanArguments<T> plan;      // amounts: `shrinkages`; add.sums: norms, unless they are kOwn
  Accumulate<T>* shrinkages;  // one per partial sum
  const double* thresholds;   // by group, or null
  double threshold;           // where they are null
  NormsFrom norms;
  int32_t runs, wide;  // of plan.add
};

// Norms of all mirrors, from partial sums that every block has stored; by all blocks together. A
// sum has the order that norms of plans have, whoever adds it up.
template <typename T>
SF_DEVICE void add_all_runs(const ProxGroupArguments<T>& a) {
  SF_SHARED(double, scratch, [kBlock]);
  const SumArguments& add = a.plan.add;
  const Team block = team_of(static_cast<int>(blockDim.x)), warp = team_of(kWarp);
  const int blocks = static_cast<int>(gridDim.x), mine = static_cast<int>(blockIdx.x);
#pragma unroll 1
  for (int n = 0; n < a.wide; ++n) {  // a run of one mirror is one block's, another one each time
    add_run(add, a.plan.partials, run_at(add, n), block, scratch, (mine + n) % blocks, blocks);
  }
#pragma unroll 1
  for (int n = a.wide + mine * warp.teams + warp.team; n < a.runs; n += blocks * warp.teams) {
    add_run(add, a.plan.partials, run_at(add, n), warp, scratch);
  }
}

// What the mirrors of a chunk are shrunk by, to where slots_of looks for it.
template <typename T>
SF_DEVICE void find_shrinkages(const ProxGroupArguments<T>& a, const Work<T>& work) {
  const ChunkMirrors mirrors = chunk_mirrors(work.task, work.chunk);
  const int count = static_cast<int>(mirrors.count);
#pragma unroll 1
  for (int n = threadIdx.x; n < count; n += blockDim.x) {
    const int64_t place = work.chunk.partial + n;
    const double norm = a.norms != kOwn
                            ? load_fresh(a.plan.add.sums + mirrors.first + n * mirrors.step)
                            : sqrt(load(a.plan.partials + place));
    const double threshold =
        a.thresholds ? load_table(a.thresholds + group_of(work.task, work.chunk, n)) : a.threshold;
    store(a.shrinkages + place, static_cast<Accumulate<T>>(group_shrinkage(norm, threshold)));
  }
}

// The frames of a plan. Code for norms and shrinkage of both kinds is more than a kernel's
// registers hold on every architecture: plans of both have their norms given.
enum class FramesOf { index, dense, both };

template <FramesOf frames, Verb verb, typename T>
SF_DEVICE void apply_frames(const Work<T>& work) {
  if constexpr (frames == FramesOf::both) {
    apply_verb<verb, true>(work);
  } else if constexpr (frames == FramesOf::dense) {
    apply_dense<verb>(work);
  } else {
    apply_index<verb>(work);
  }
}

// A block for every chunk.
template <typename T, FramesOf frames>
SF_KERNEL(kBlock, 2)
plan_prox_group(SF_ARGUMENT ProxGroupArguments<T> a) {
  SF_SHARED(int64_t, words, [kTaskFields + kChunkFields]);
  SF_SHARED(Slots, slots, [1]);
  read_chunk(a.plan, blockIdx.x, words, slots);
  if constexpr (frames != FramesOf::both) {
    if (a.norms != kGiven) apply_frames<frames, kNorms>(work_of(a.plan, words, slots));
    if (a.norms == kTogether) {
      sync_grid();
      add_all_runs(a);
      sync_grid();
    }
    __syncthreads();
  }
  // every part works it out again: no register holds it meanwhile
  find_shrinkages(a, work_of(a.plan, words, slots));
  __syncthreads();
  apply_frames<frames, kShrinkFound>(work_of(a.plan, words, slots));
}

}  // namespace symfast
