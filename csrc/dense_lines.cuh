// SPDX-License-Identifier: Apache-2.0
// A block's dense job with a team of threads per column, and frames in shared memory where they
// fit; see dense.cuh.
#pragma once
#include "dense_frames.cuh"

namespace symfast {

// Units i.. of row k of A^T times those of the column.
template <int V, typename Frame, typename T, typename A = Accumulate<T>>
SF_DEVICE A multiply_pack(const Frame& frame, int k, int i, const Pack<T, V>& pack) {
  A a[V], sum = 0;
  frame_values<Frame::staged>(frame.data + k * frame.row_step, i, a);
#pragma unroll
  for (int v = 0; v < V; ++v) sum += a[v] * widen(pack.get(v));
  return sum;
}

// Row k of A^T times the column: this thread's share.
template <typename T, int V, typename Frame>
SF_DEVICE Accumulate<T> multiply(const Column<T, V>& column, const Frame& frame, int k) {
  Accumulate<T> sum = 0;
#pragma unroll
  for (int r = 0; r < kKept; ++r) {
    const int i = column.unit(r);
    if (i < column.units) sum += multiply_pack(frame, k, i, column.kept[r]);
  }
#pragma unroll 1
  for (int r = kKept; column.unit(r) < column.units; ++r) {
    sum += multiply_pack(frame, k, column.unit(r), column.read(column.unit(r)));
  }
  return sum;
}

// Pack += sum over rows [k0, k1) of steps[k - k0] times units i.. of row k of A^T.
template <int V, typename Frame, typename T>
SF_DEVICE Pack<T, V> add_to_pack(const Frame& frame, int k0, int k1, int i, Pack<T, V> pack,
                                 const Accumulate<T>* steps) {
  using A = Accumulate<T>;
  A u[V];
#pragma unroll
  for (int v = 0; v < V; ++v) u[v] = widen(pack.get(v));
#pragma unroll 1
  for (int k = k0; k < k1; ++k) {
    A a[V];
    frame_values<Frame::staged>(frame.data + k * frame.row_step, i, a);
#pragma unroll
    for (int v = 0; v < V; ++v) u[v] += a[v] * steps[k - k0];
  }
#pragma unroll
  for (int v = 0; v < V; ++v) pack.set(v, narrow<T>(u[v]));
  return pack;
}

// The column plus rows [k0, k1) of A^T times steps, to memory.
template <typename T, int V, typename Frame>
SF_DEVICE void add_rows(Column<T, V>& column, const Frame& frame, int k0, int k1,
                        const Accumulate<T>* steps) {
#pragma unroll
  for (int r = 0; r < kKept; ++r) {
    const int i = column.unit(r);
    if (i >= column.units) continue;
    column.kept[r] = add_to_pack(frame, k0, k1, i, column.kept[r], steps);
    column.write(i, column.kept[r]);
  }
#pragma unroll 1
  for (int r = kKept; column.unit(r) < column.units; ++r) {
    const int i = column.unit(r);
    column.write(i, add_to_pack(frame, k0, k1, i, column.read(i), steps));
  }
  column.from = column.to;  // rows that are still to come add to what is there now
}

// The column's coefficients [k0, k1) to `mine`, if any; their sum of squares on every lane.
template <typename T, int V, typename Frame>
SF_DEVICE Accumulate<T> coefficients_of(const Column<T, V>& column, const Frame& frame, int k0,
                                        int k1, Accumulate<T>* mine, Accumulate<T>* partial) {
  constexpr int kRows = 2;
  Accumulate<T> squares = 0;
#pragma unroll 1
  for (int k = k0; k < k1; k += kRows) {
    Accumulate<T> c[kRows];
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      c[n] = k + n < k1 ? multiply(column, frame, k + n) : Accumulate<T>(0);
    }
    sum_over_team(column.team, c, partial);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      squares += c[n] * c[n];
      if (mine && column.team.lane == 0 && k + n < k1) mine[k + n - k0] = c[n];
    }
  }
  return squares;
}

template <int V, typename T, typename F, typename C>
SF_DEVICE Column<T, V> column_at(const DenseJob<T, F, C>& job, const Team& team, int64_t o,
                                 int64_t c, bool active) {
  const Columns<T>& columns = job.columns;
  const int64_t place = o * columns.outer_step + c * columns.inner_step;
  Column<T, V> column;
  column.team = team;
  column.units = active ? columns.units : 0;
  column.step = columns.unit_step;
  column.from = columns.source + place;
  column.to = columns.target + place;
  column.keep();
  return column;
}

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
      if constexpr (verb == kShrink || verb == kProx) amount = job.threshold(o, c, k);
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
  for_columns<staged>(job, team, pitch, [&](const auto& frame, int64_t o, int64_t c, bool active) {
    Column<T, V> column = column_at<V>(job, team, o, c, active);
    A factor = 1;
    if (verb == kProx && job.group) {
      const A squares = coefficients_of(column, frame, 0, rows, static_cast<A*>(nullptr), partial);
      if (active) factor = group_factor(sqrt(squares), job.threshold(o, c, 0));
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
  });
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
                        [&](const auto& frame, int64_t o, int64_t c, bool active) {
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
