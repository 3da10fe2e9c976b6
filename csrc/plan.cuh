// SPDX-License-Identifier: Apache-2.0
// The kernel of a plan: one thread block per chunk, one launch per verb. See plan.h for the tables.
#pragma once
#include "chunk_mirrors.h"
#include "dense_lines.cuh"
#include "plan_columns.cuh"
#include "plan_gathered.cuh"

namespace symfast {

template <Verb verb, typename T>
SF_DEVICE void fill_job(const Work<T>& work, DenseJob<T, Accumulate<T>, Accumulate<T>>& job) {
  const Task& task = work.task;
  const Chunk& chunk = work.chunk;
  job.columns = {work.data,         work.data,   task.unit_stride, task.outer_stride,
                 task.inner_stride, chunk.o0,    chunk.c0,         static_cast<int>(task.units),
                 work.outer(),      work.inner()};
  job.frames = {work.arguments.frames + task.pool, task.frame_step, task.frame_row, 1,
                static_cast<int>(task.count)};
  job.amounts = work.arguments.amounts;
  job.amount = work.arguments.amount;
  const int64_t by_row = work.slots.per_mirror * task.mirror_column_step;
  job.slots = {work.slots.start, work.slots.per_outer, 0, by_row};
  job.group = false;  // a plan's group prox is a shrink with an amount per mirror
  job.out = work.arguments.out;
  job.places = {task.out, task.out_outer, task.out_inner, task.out_row};
  job.partials = work.arguments.partials + chunk.partial;
  job.partial_rows = task.mirror_column_step > 0;
  job.partial_outer = !job.partial_rows && task.mirror_step > 0;
  job.stage_bytes = work.arguments.cache_bytes - kDenseBytes;
}

// A frame of no rows has norm zero.
template <Verb verb, typename T>
SF_DEVICE void empty_norms(const Work<T>& work) {
  if (verb != kNorms || work.task.mirror_column_step > 0) return;
  const int count = work.task.mirror_step > 0 ? work.outer() : 1;
#pragma unroll 1
  for (int n = threadIdx.x; n < count; n += blockDim.x) {
    store(work.arguments.partials + work.chunk.partial + n, 0.0);
  }
}

// A team has a column, or, where columns are neighbours in memory, a block a tile of them.
template <Verb verb, typename T>
SF_DEVICE void apply_dense(const Work<T>& work) {
  using A = Accumulate<T>;
  using Job = DenseJob<T, A, A>;
  SF_SHARED(Job, job, [1]);
  if (work.task.count == 0) return empty_norms<verb>(work);
  if (threadIdx.x == 0) fill_job<verb>(work, job[0]);
  __syncthreads();
  if (work.task.unit_stride == 1 || work.inner() == 1) {
    dense_columns_by_team<verb>(job[0]);
  } else if (work.columns_pack()) {
    dense_tiles<verb, kPack<T>>(job[0]);
  } else {
    dense_tiles<verb, 1>(job[0]);
  }
}

template <Verb verb, typename T>
SF_DEVICE void apply_index(const Work<T>& work) {
  const int mirrors = staged_mirrors<verb>(work);
  if (mirrors > 0) return apply_gathered<verb>(work, mirrors);
  // Read again what the decision has read: kept in registers, it is one too many for sm_80.
  if constexpr (verb == kCoefficients && sizeof(T) == 2) __syncthreads();
  if constexpr (verb == kNorms) {
    index_norms(work);
  } else {
    switch (work.task.kind) {
      case kRows:
        return apply_runs<verb, false>(work);
      case kPairs:
        return apply_runs<verb, true>(work);
      case kClusters:
        return apply_clusters<verb>(work);
      case kRowsScattered:
        return apply_scattered<verb, false>(work);
      default:
        return apply_scattered<verb, true>(work);
    }
  }
}

// From the partial sums of this block's chunk, which has this number, to norms: of mirrors or of
// groups.
template <typename T>
SF_DEVICE void finish_norms(const Work<T>& work, int64_t number) {
  const SumArguments& add = work.arguments.add;
  const int64_t first = work.chunk.partial, count = chunk_mirrors(work.task, work.chunk).count;
  if (add.groups && !mirrors_are_groups(work.task)) {
    add_chunk(work.arguments.partials + first, count, add.groups + number);
  }
  if (add.sums) {
    add_up(add, work.arguments.partials, number);
  } else if (add.root || add.before) {
    finish_in_place(add, work.arguments.partials, first, count);
  }
}

// Blocks that an SM must have registers for: two keep 32 KB on their way from memory.
template <typename T, Verb verb, bool dense>
constexpr int kBlocks = dense || sizeof(T) == 8 || verb == kCoefficients || verb == kNorms ? 2 : 3;

// By all threads of the block. `dense`: the plan holds dense frames.
template <Verb verb, bool dense, typename T>
SF_DEVICE void apply_verb(const Work<T>& work) {
  if (dense && work.task.kind == kDense) {
    if constexpr (dense) apply_dense<verb>(work);
  } else {
    apply_index<verb>(work);
  }
}

// Without dense frames a block needs fewer registers.
template <typename T, Verb verb, bool dense>
SF_KERNEL(kBlock, (kBlocks<T, verb, dense>))
plan_kernel(SF_ARGUMENT PlanArguments<T> arguments) {
  SF_SHARED(int64_t, words, [kTaskFields + kChunkFields]);
  SF_SHARED(Slots, slots, [1]);
  read_chunk(arguments, blockIdx.x, words, slots);
  const Work<T> work = work_of(arguments, words, slots);
  apply_verb<verb, dense>(work);
  if constexpr (verb == kNorms) finish_norms(work, blockIdx.x);
}

}  // namespace symfast
