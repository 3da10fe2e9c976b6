// SPDX-License-Identifier: Apache-2.0
// Sums of squares of mirrors that lie in several chunks, added up by the launch that finds them.
// Every block stores its part, then a flag, then looks at the flags of all that have a part: who
// sees all of them adds the parts up. With a fence before and after the flag is stored, the block
// whose fence is the last one sees all flags, or that somebody has seen them already; docs/cuda.md
// has the proof. No block waits for another, there is no atomic and no counter to clear, and the
// order of a sum depends on the plan alone: whoever adds, and however often, the bits are the same.
#pragma once
#include "lanes.cuh"
#include "plan_sums.h"

namespace symfast {

struct SumArguments {
  const MirrorRun* runs;
  const ChunkMeetings* chunks;
  const Meeting* meetings;
  const int64_t* places;
  int64_t* flags;  // one per part: `tag` once it is there, zero once somebody has added it
  int64_t tag;     // of this call alone, never zero: what was in this memory before is no flag
  double* sums;    // null where the partial sums are the norms
  const double* before;  // of other launches, to be added to every sum; or null
  bool root;             // norms, not their squares
  double* groups;        // a chunk's sum for its group, one per chunk; null for norms of mirrors
};

SF_DEVICE double finished(const SumArguments& a, int64_t number, double sum) {
  if (a.before) sum += load_table(a.before + number);
  return a.root ? sqrt(sum) : sum;
}

SF_DEVICE MirrorRun run_at(const SumArguments& a, int64_t number) {
  const MirrorRun* run = a.runs + number;
  return {load_table(&run->mirror), load_table(&run->count), load_table(&run->parts),
          load_table(&run->end)};
}

// This block's parts [begin, end) are there, and what it stored before can be seen by whoever sees
// that. Other threads of the block must be at a barrier before and after.
SF_DEVICE void announce(const SumArguments& a, int64_t begin, int64_t end) {
  const int64_t first = begin + threadIdx.x;
  if (first >= end) return;
  __threadfence();
#pragma unroll 1
  for (int64_t n = first; n < end; n += blockDim.x) {
    store_signal(a.flags + load_table(&a.meetings[n].part), a.tag);
  }
  __threadfence();
}

// Whether all parts of the run are there to be read; the last ones are the likeliest to be missing.
SF_DEVICE bool all_there(const SumArguments& a, const MirrorRun& run, const Team& team,
                         int* scratch) {
  int64_t part = run.end - 1 - team.lane;
  int missing[1] = {part >= run.parts && load_signal(a.flags + part) != a.tag};
  sum_over_team(team, missing, scratch);
  if (missing[0] > 0) return false;
#pragma unroll 1
  for (part -= team.size; part >= run.parts; part -= team.size) {
    missing[0] += load_signal(a.flags + part) != a.tag;
  }
  sum_over_team(team, missing, scratch);
  if (missing[0] > 0) return false;
  __threadfence();
  sync_team(team);
  return true;
}

// Parts of mirror run.mirror + m: every step-th from the first-th on, several loads in flight.
SF_DEVICE double add_parts(const SumArguments& a, const double* partials, const MirrorRun& run,
                           int64_t m, int first, int step) {
  constexpr int kAhead = 8;
  double sum = 0;
#pragma unroll 1
  for (int64_t part = run.parts + first; part < run.end; part += kAhead * step) {
    double x[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const int64_t at = part + n * step;
      x[n] = at < run.end ? load_fresh(partials + load_table(a.places + at) + m) : 0.0;
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) sum += x[n];
  }
  return sum;
}

// The sums of a run's mirrors by a team, a warp or the block: `width` mirrors at a time, the parts
// of each shared by the threads `width` apart.
SF_DEVICE void add_run(const SumArguments& a, const double* partials, const MirrorRun& run,
                       const Team& team, double* scratch) {
  const int width = power_of_two(run.count, team.size);
  const int apart = width < kWarp ? kWarp : width;  // what a warp has not added up by itself
#pragma unroll 1
  for (int64_t first = 0; first < run.count; first += width) {
    const int64_t m = first + team.lane % width;
    double sum = 0;
    if (m < run.count) {
      sum = add_parts(a, partials, run, m, team.lane / width, team.size / width);
    }
#pragma unroll 1
    for (int offset = width; offset < kWarp; offset *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, offset);
    }
    if (team.size > apart) {
      __syncthreads();
      scratch[team.lane] = sum;
      __syncthreads();
      sum = 0;
#pragma unroll 1
      for (int lane = team.lane % apart; lane < team.size; lane += apart) sum += scratch[lane];
    }
    if (team.lane < width && m < run.count) {
      store(a.sums + run.mirror + m, finished(a, run.mirror + m, sum));
    }
  }
}

// By a team together: adds the run up if all of it is there. The next replay of a captured graph
// brings the same tag to the same memory: it must find no flag of this one.
SF_DEVICE void add_if_there(const SumArguments& a, const double* partials, const MirrorRun& run,
                            const Team& team, double* scratch, int* votes) {
  if (!all_there(a, run, team, votes)) return;
  add_run(a, partials, run, team, scratch);
#pragma unroll 1
  for (int64_t part = run.parts + team.lane; part < run.end; part += team.size) {
    store_signal(a.flags + part, int64_t{0});
  }
}

// Partial sums of a chunk, which this block has stored: one for all. By all its threads.
SF_DEVICE void add_chunk(const double* partials, int64_t count, double* sum) {
  SF_SHARED(double, scratch, [kBlock / kWarp]);
  __syncthreads();
  double mine[1] = {0};
#pragma unroll 1
  for (int64_t n = threadIdx.x; n < count; n += blockDim.x) mine[0] += load(partials + n);
  sum_over_team(team_of(static_cast<int>(blockDim.x)), mine, scratch);
  if (threadIdx.x == 0) store(sum, mine[0]);
}

// The partial sums of a chunk that are the norms already, but for what `finished` does.
SF_DEVICE void finish_in_place(const SumArguments& a, double* partials, int64_t first,
                               int64_t count) {
  __syncthreads();
#pragma unroll 1
  for (int64_t n = first + threadIdx.x; n < first + count; n += blockDim.x) {
    store(partials + n, finished(a, n, load(partials + n)));
  }
}

// After a block has stored the partial sums of this chunk; by all its threads.
SF_DEVICE void add_up(const SumArguments& a, const double* partials, int64_t chunk) {
  SF_SHARED(double, scratch, [kBlock]);
  SF_SHARED(int, votes, [kBlock / kWarp]);
  const ChunkMeetings* mine = a.chunks + chunk;
  const int64_t begin = load_table(&mine->begin), wide = load_table(&mine->wide),
                several = load_table(&mine->several), end = load_table(&mine->end);
  __syncthreads();
  announce(a, begin, several);
  __syncthreads();
  const Team block = team_of(static_cast<int>(blockDim.x)), warp = team_of(kWarp);
#pragma unroll 1
  for (int64_t n = begin; n < wide; ++n) {
    add_if_there(a, partials, run_at(a, load_table(&a.meetings[n].run)), block, scratch, votes);
  }
#pragma unroll 1
  for (int64_t n = wide + warp.team; n < end; n += warp.teams) {
    const MirrorRun run = run_at(a, load_table(&a.meetings[n].run));
    if (n < several) {
      add_if_there(a, partials, run, warp, scratch, votes);
    } else {
      add_run(a, partials, run, warp, scratch);
    }
  }
}

}  // namespace symfast
