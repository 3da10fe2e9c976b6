// SPDX-License-Identifier: Apache-2.0
// A block's dense job with a team of threads per column, and frames in shared memory where they
// fit; see dense.cuh.
#pragma once
#include "dense_team.cuh"

namespace symfast {

// f(c) - c where f is applied, c itself where it is asked for; by the lanes of the team together.
template <Verb verb, typename T, typename F, typename C>
SF_DEVICE void finish_rows(const DenseJob<T, F, C>& job, const Team& team, Accumulate<T>* mine,
                           int k0, int k1, int64_t o, int64_t c, Accumulate<T> factor) {
  using A = Accumulate<T>;
#pragma unroll 1
  for (int k = k0 + team.lane; k < k1; k += team.size) {
    const A value = mine[k - k0];
    if constexpr (verb == kCoefficients) {
      store(job.out + job.places.at(o, c, k), narrow<C>(value));
    } else if (verb == kProx && job.group) {
      mine[k - k0] = value * factor - value;
    } else {
      A amount = 0;
      if constexpr (takes_amounts(verb)) amount = job.template threshold<verb>(o, c, k);
      mine[k - k0] = new_coefficient<verb>(value, amount) - value;
    }
  }
}

template <Verb verb, bool staged, int V, typename T, typename F, typename C>
SF_DEVICE void apply_lines(const DenseJob<T, F, C>& job, const Team& team, int pitch, void* memory,
                           Accumulate<T>* partial) {
  using A = Accumulate<T>;
  const int rows = job.frames.rows;
  const int tile = kCoefficientBytes / static_cast<int>(sizeof(A)) / team.teams;
  A* mine = static_cast<A*>(memory) + team.team * tile;
  const auto visit = [&](const auto& frame, int64_t o, int64_t c, bool active, int) {
    Column<T, V> column = column_at<V>(job, team, o, c, active);
    A factor = 1;
    if (verb == kProx && job.group) {
      const A squares = coefficients_of(column, frame, 0, rows, static_cast<A*>(nullptr), partial);
      if (active) factor = group_factor(sqrt(squares), job.template threshold<verb>(o, c, 0));
    }
#pragma unroll 1
    for (int k0 = 0; k0 < rows; k0 += tile) {
      const int k1 = k0 + tile < rows ? k0 + tile : rows;
      coefficients_of(column, frame, k0, k1, mine, partial);
      sync_team(team);
      if (active) finish_rows<verb>(job, team, mine, k0, k1, o, c, factor);
      sync_team(team);
      if constexpr (verb != kCoefficients) {
        add_rows(column, frame, k0, k1, mine);
        sync_team(team);
      }
    }
  };
  for_columns<staged>(job, team, pitch, visit);
}

// Columns whose coefficients wait in shared memory for each other; whole sectors where there are
// that many.
template <typename A>
SF_DEVICE int panel_width(int rows) {
  const int fit = kCoefficientBytes / static_cast<int>(sizeof(A)) / (rows > 0 ? rows : 1);
  return fit < 16 ? fit : fit / 16 * 16;
}

// The coefficients of `count` columns from the first-th on, from the panel to memory, where one
// column's lie side by side, or those of neighbouring columns.
template <typename T, typename F, typename C>
SF_DEVICE void store_panel(const DenseJob<T, F, C>& job, const Accumulate<T>* panel, int rows,
                           bool by_row, int first, int count, int width) {
  const int items = rows * count;
#pragma unroll 1
  for (int n = threadIdx.x; n < items; n += static_cast<int>(blockDim.x)) {
    const Split place = split(n, by_row ? rows : count);
    const int k = by_row ? place.rest : place.quotient;
    const int slot = by_row ? place.quotient : place.rest;
    const Split column = split(first + slot, job.columns.inner);
    const int64_t o = job.columns.o0 + column.quotient, c = job.columns.c0 + column.rest;
    store(job.out + job.places.at(o, c, k), narrow<C>(panel[by_row ? n : k * width + slot]));
  }
}

// Coefficients or norms, which are few beside what they are made of, for whole sectors at a time.
template <Verb verb, bool staged, int V, typename T, typename F, typename C>
SF_DEVICE void panel_lines(const DenseJob<T, F, C>& job, const Team& team, int pitch,
                           Accumulate<T>* partial) {
  using A = Accumulate<T>;
  A* panel = reinterpret_cast<A*>(shared_memory());
  const int rows = verb == kDistances ? 1 : job.frames.rows, width = panel_width<A>(rows);
  const bool by_row = job.places.row == 1;
  int begin = 0;  // first column of the panel
  const auto flush = [&](int end) {
    __syncthreads();
    store_panel(job, panel, rows, by_row, begin, end - begin, width);
    __syncthreads();
    begin = end;
  };
  const auto visit = [&](const auto& frame, int64_t o, int64_t c, bool active, int first) {
    if (first + team.teams > begin + width) flush(first);
    const Column<T, V> column = column_at<V>(job, team, o, c, active);
    const int slot = first - begin + team.team;
    A* mine = active ? panel + (by_row ? slot * rows : slot) : nullptr;
    if constexpr (verb == kDistances) {
      A* const none = nullptr;
      const A squares = coefficients_of(column, frame, 0, job.frames.rows, none, partial);
      if (mine && team.lane == 0) *mine = sqrt(squares);
    } else {
      coefficients_of(column, frame, 0, rows, mine, partial, by_row ? 1 : width);
    }
  };
  for_columns<staged>(job, team, pitch, visit);
  flush(job.columns.outer * job.columns.inner);
}

// Adds up what the teams found for the rows [k0, k1), or for all of them, in the order of the
// teams.
template <typename T, typename F, typename C>
SF_DEVICE void store_sums(const DenseJob<T, F, C>& job, const Team& team, const double* sums,
                          int step, int k0, int k1) {
  const int width = job.partial_rows ? k1 - k0 : 1;
#pragma unroll 1
  for (int k = threadIdx.x; k < width; k += blockDim.x) {
    double sum = 0;
#pragma unroll 1
    for (int t = 0; t < team.teams; ++t) sum += sums[t * step + k];
    store(job.partials + k0 + k, sum);
  }
}

// Sums of squares of a chunk: per outer index (one column each), per row of A^T, or one.
template <bool staged, int V, typename T, typename F, typename C>
SF_DEVICE void norm_lines(const DenseJob<T, F, C>& job, const Team& team, int pitch, void* memory,
                          Accumulate<T>* partial) {
  using A = Accumulate<T>;
  constexpr int kSums = kCoefficientBytes / (sizeof(double) + sizeof(A));
  const int tile = job.partial_rows ? kSums / team.teams : job.frames.rows;
  double* sums = static_cast<double*>(memory);
  A* coefficients = reinterpret_cast<A*>(sums + kSums);
  const int mine = job.partial_rows ? team.team * tile : team.team;
#pragma unroll 1
  for (int k0 = 0; k0 < job.frames.rows; k0 += tile) {
    const int k1 = k0 + tile < job.frames.rows ? k0 + tile : job.frames.rows;
    __syncthreads();
#pragma unroll 1
    for (int n = threadIdx.x; n < kSums; n += blockDim.x) sums[n] = 0;
    __syncthreads();
    for_columns<staged>(job, team, pitch,
                        [&](const auto& frame, int64_t o, int64_t c, bool active, int) {
                          const Column<T, V> column = column_at<V>(job, team, o, c, active);
                          A* kept = job.partial_rows ? coefficients + mine : nullptr;
                          const A squares = coefficients_of(column, frame, k0, k1, kept, partial);
                          if (job.partial_rows) {
                            sync_team(team);
#pragma unroll 1
                            for (int k = team.lane; active && k < k1 - k0; k += team.size) {
                              sums[mine + k] += static_cast<double>(kept[k]) * kept[k];
                            }
                            sync_team(team);
                          } else if (active && team.lane == 0) {
                            if (job.partial_outer)
                              store(job.partials + o - job.columns.o0, double(squares));
                            sums[mine] += squares;
                          }
                        });
    __syncthreads();
    if (!job.partial_outer) store_sums(job, team, sums, job.partial_rows ? tile : 1, k0, k1);
  }
}

template <Verb verb, bool staged, int V, typename T, typename F, typename C>
SF_DEVICE void dense_lines(const DenseJob<T, F, C>& job, int pitch) {
  using A = Accumulate<T>;
  A* partial = reinterpret_cast<A*>(shared_memory() + kCoefficientBytes);
  const int packs = (job.columns.units + V - 1) / V;
  const bool wide = packs > kWarp * kKept;
  const Team team = team_of(wide ? static_cast<int>(blockDim.x) : power_of_two(packs, kWarp));
  if constexpr (verb == kNorms) {
    norm_lines<staged, V>(job, team, pitch, shared_memory(), partial);
  } else if constexpr (verb == kDistances) {
    panel_lines<verb, staged, V>(job, team, pitch, partial);
  } else if (verb == kCoefficients && panel_width<A>(job.frames.rows) >= team.teams) {
    panel_lines<kCoefficients, staged, V>(job, team, pitch, partial);
  } else {
    apply_lines<verb, staged, V>(job, team, pitch, shared_memory(), partial);
  }
}

// Columns of neighbouring units (packs), or of any layout (one element at a time).
template <Verb verb, typename T, typename F, typename C>
SF_DEVICE void dense_columns_by_team(const DenseJob<T, F, C>& job) {
  constexpr int V = kPack<T>;
  using A = Accumulate<T>;
  // a frame that is transposed on its way would hit one bank again and again
  const bool transposed = job.frames.row_step < job.frames.unit_step;
  const int pitch = job.columns.units + (transposed ? kPack<A> : 0);
  const int64_t bytes = int64_t{job.frames.rows} * pitch * sizeof(A);
  const bool fits = bytes <= job.stage_bytes, packs = job.columns.packs();
  if (fits && packs) {
    dense_lines<verb, true, V>(job, pitch);
  } else if (fits) {
    dense_lines<verb, true, 1>(job, pitch);
  } else if (packs && job.frames.packs()) {
    dense_lines<verb, false, V>(job, pitch);
  } else {
    dense_lines<verb, false, 1>(job, pitch);
  }
}

}  // namespace symfast
