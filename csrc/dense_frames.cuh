// SPDX-License-Identifier: Apache-2.0
// Frames of a dense job in shared memory, as many at a time as fit, and the columns that go with
// them.
#pragma once
#include "dense.cuh"

namespace symfast {

// Row k of the frame of one outer index at data + k * row_step.
template <bool staged_, typename F>
struct Frame {
  static constexpr bool staged = staged_;
  const F* data;
  int64_t row_step;
};

// Frames of `outers` outer indices from o on, to rows of `pitch` in shared memory, zero-padded.
template <typename T, typename F, typename C>
SF_DEVICE void stage_frames(const DenseJob<T, F, C>& job, int64_t o, int outers, int pitch) {
  using A = Accumulate<T>;
  A* stage = reinterpret_cast<A*>(stage_memory());
  const Frames<F>& frames = job.frames;
  const int units = job.columns.units, size = frames.rows * pitch;
  const F* from = frames.data + o * frames.outer_step;
  if constexpr (sizeof(F) == sizeof(A)) {
    constexpr int V = kPack<F>;
    const bool dense = frames.unit_step == 1 && frames.row_step == units && units % V == 0 &&
                       (outers == 1 || frames.outer_step == size);
    if (dense && elements_to_boundary(from) == 0) {
#pragma unroll 1
      for (int i = threadIdx.x * V; i < outers * size; i += blockDim.x * V) {
        *reinterpret_cast<Pack<F, V>*>(stage + i) = load_pack<V>(from + i);
      }
      return;
    }
  }
  const bool rows_first = frames.row_step < frames.unit_step;  // neighbours in memory
#pragma unroll 1
  for (int n = threadIdx.x; n < outers * size; n += blockDim.x) {
    const Split frame = split(n, size);
    const Split two = split(frame.rest, rows_first ? frames.rows : pitch);
    const int k = rows_first ? two.rest : two.quotient;
    const int i = rows_first ? two.quotient : two.rest;
    const int64_t place =
        frame.quotient * frames.outer_step + k * frames.row_step + i * frames.unit_step;
    stage[frame.quotient * size + k * pitch + i] =
        i < units ? static_cast<A>(widen(load_table(from + place))) : A(0);
  }
}

// Calls visit(frame, o, c, active, first) for all columns, by all threads together; `first` is the
// number of the first team's column, the other teams have the columns after it.
template <bool staged, typename T, typename F, typename C, typename Visit>
SF_DEVICE void for_columns(const DenseJob<T, F, C>& job, const Team& team, int pitch,
                           Visit&& visit) {
  using A = Accumulate<T>;
  const Columns<T>& columns = job.columns;
  const Frames<F>& frames = job.frames;
  const bool one_frame = frames.outer_step == 0;
  const int size = frames.rows * pitch;
  const auto at_once = [&] {  // asked for again: kept, it is a register too many for two verbs
    if (!staged || one_frame) return columns.outer;
    const int fit = job.stage_bytes / (size * static_cast<int>(sizeof(A)));
    return fit < columns.outer ? fit : columns.outer;
  };
#pragma unroll 1
  for (int first_o = 0; first_o < columns.outer; first_o += at_once()) {
    const int most = at_once(), left = columns.outer - first_o;
    const int outers = left < most ? left : most;
    const int64_t o = columns.o0 + first_o;
    if (staged && (!one_frame || first_o == 0)) {
      __syncthreads();
      stage_frames(job, o, one_frame ? 1 : outers, pitch);
      __syncthreads();
    }
    const int items = outers * columns.inner;
#pragma unroll 1
    for (int first = 0; first < items; first += team.teams) {
      const bool active = first + team.team < items;
      const Split column = split(active ? first + team.team : 0, columns.inner);
      const int near = column.quotient, round = first_o * columns.inner + first;
      const int64_t c = columns.c0 + column.rest;
      if constexpr (staged) {
        const A* data = reinterpret_cast<const A*>(stage_memory()) + (one_frame ? 0 : near * size);
        visit(Frame<true, A>{data, pitch}, o + near, c, active, round);
      } else {
        const F* data = frames.data + (o + near) * frames.outer_step;
        visit(Frame<false, F>{data, frames.row_step}, o + near, c, active, round);
      }
    }
  }
}

}  // namespace symfast
