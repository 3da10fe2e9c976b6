// SPDX-License-Identifier: Apache-2.0
// One column by a team of threads: its coefficients, and what rows of A^T add to it.
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

// The column's coefficients [k0, k1) to `mine`, if any, `step` apart; their sum of squares on every
// lane.
template <typename T, int V, typename Frame>
SF_DEVICE Accumulate<T> coefficients_of(const Column<T, V>& column, const Frame& frame, int k0,
                                        int k1, Accumulate<T>* mine, Accumulate<T>* partial,
                                        int step = 1) {
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
      if (mine && column.team.lane == 0 && k + n < k1) mine[(k + n - k0) * step] = c[n];
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

}  // namespace symfast
