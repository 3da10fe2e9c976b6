// SPDX-License-Identifier: Apache-2.0
// Verbs on rows that lie in shared memory: see plan_staged.cuh.
#pragma once
#include "plan_staged.cuh"

namespace symfast {

// The members of a cluster in a row.
template <typename T>
struct StagedMembers {
  T* line;
  int64_t first;

  SF_DEVICE Pack<T, 1> load(int64_t unit) const { return {{line[unit - first]}}; }
  SF_DEVICE void store(int64_t unit, const Pack<T, 1>& pack) const {
    line[unit - first] = pack.lane[0];
  }
  SF_DEVICE void keep(int, const Pack<T, 1>&) const {}
  SF_DEVICE Pack<T, 1> again(int, int64_t unit) const { return load(unit); }
};

// A verb but norms on mirror k in the row of outer index o.
template <Verb verb, typename T>
SF_DEVICE void apply_to_cluster(const Work<T>& work, const StagedMembers<T>& members, int64_t k,
                                int64_t o) {
  const Cluster cluster = cluster_of(work, k);
  if constexpr (verb == kCoefficients) {
    cluster_read<verb, 1, T>(work, cluster, members, o, work.chunk.c0);
  } else {
    Accumulate<T> amount = 0;
    if constexpr (takes_amounts(verb)) amount = work.template amount<verb>(work.slot(k, o));
    cluster_apply<verb, 1, T>(work, cluster, members, amount);
  }
}

template <Verb verb, bool pairs, typename T>
SF_DEVICE void apply_to_units(const Work<T>& work, const StagedMembers<T>& members, int64_t k,
                              int64_t o) {
  const UnitPair unit = unit_pair(work.index(k));
  Pack<T, 1> a = members.load(unit.a), b{};
  if constexpr (pairs) b = members.load(unit.b);
  if constexpr (verb == kCoefficients) {
    store(work.output(k, o, work.chunk.c0), TurnedPack<pairs, 1, T>{a, b}.coefficient(0));
  } else {
    Line<T> line{};
    if constexpr (takes_amounts(verb)) line.amount = work.template amount<verb>(work.slot(k, o));
    change<verb, pairs>(work, line, a, b);
    members.store(unit.a, a);
    if constexpr (pairs) members.store(unit.b, b);
  }
}

// Neighbouring threads take neighbouring rows, then mirrors.
template <Verb verb, typename T>
SF_DEVICE void apply_to_rows(const Work<T>& work, const StagedTile& tile, const Stage<T>& stage,
                             int64_t o0, int rows) {
  const int shift = __popc(tile.rows - 1), kind = static_cast<int>(work.task.kind);
#pragma unroll 1
  for (int item = threadIdx.x; item < tile.mirrors << shift; item += blockDim.x) {
    const int row = item & (tile.rows - 1);
    if (row >= rows) continue;
    const StagedMembers<T> members{stage.rows + row * tile.pitch, tile.unit};
    const int64_t k = tile.k0 + (item >> shift), o = o0 + row;
    if (kind == kClusters) {
      apply_to_cluster<verb>(work, members, k, o);
    } else if (kind == kPairsScattered) {
      apply_to_units<verb, true>(work, members, k, o);
    } else {
      apply_to_units<verb, false>(work, members, k, o);
    }
  }
}

// ---- norms: the sums that plan_norms.cuh has straight from memory, in the same order ----

template <typename T>
SF_DEVICE double staged_squares(const Work<T>& work, const StagedMembers<T>& members, int64_t k) {
  if (work.task.kind == kClusters) {
    return cluster_read<kNorms, 1, T>(work, cluster_of(work, k), members, 0, 0);
  }
  const UnitPair unit = unit_pair(work.index(k));
  const bool pairs = work.task.kind == kPairsScattered;
  const Pack<T, 1> a = members.load(unit.a);
  return squares(a, pairs ? members.load(unit.b) : a, pairs);
}

// Adds the squares of a batch of rows, the first of which is row number `first` of the chunk.
template <typename T>
SF_DEVICE void add_rows(const Work<T>& work, const StagedTile& tile, const Stage<T>& stage,
                        int lanes, int first, int rows) {
  const int shift = __popc(lanes - 1);
#pragma unroll 1
  for (int n = threadIdx.x; n < tile.mirrors << shift; n += blockDim.x) {
    double sum = first > 0 ? stage.sums[n] : 0;
#pragma unroll 1
    for (int row = (n - first) & (lanes - 1); row < rows; row += lanes) {
      const StagedMembers<T> members{stage.rows + row * tile.pitch, tile.unit};
      sum += staged_squares(work, members, tile.k0 + (n >> shift));
    }
    stage.sums[n] = sum;
  }
}

// From a sum of every lane to one of every mirror, in memory.
template <typename T>
SF_DEVICE void finish_rows(const Work<T>& work, const StagedTile& tile, double* sums, int lanes) {
  const int shift = __popc(lanes - 1), threads = static_cast<int>(blockDim.x);
#pragma unroll 1
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
#pragma unroll 1
    for (int n = threadIdx.x; n < tile.mirrors << shift; n += threads) {
      if ((n & (lanes - 1)) < half) sums[n] += sums[n + half];
    }
  }
  __syncthreads();
  double* to = work.arguments.partials + work.chunk.partial + tile.k0 - work.chunk.k0;
#pragma unroll 1
  for (int k = threadIdx.x; k < tile.mirrors; k += threads) store(to + k, sums[k << shift]);
}

// ---- a chunk ----

// Which units of the span the mirrors of a tile touch.
template <typename T>
SF_DEVICE void mark_touched(const Work<T>& work, const StagedTile& tile, const Stage<T>& stage) {
#pragma unroll 1
  for (int i = threadIdx.x; i < tile.width; i += static_cast<int>(blockDim.x)) stage.touched[i] = 0;
  __syncthreads();
  for_units(work, tile.k0, tile.k0 + tile.mirrors,
            [&](int64_t unit) { stage.touched[unit - tile.unit] = 1; });
}

template <Verb verb, typename T>
SF_DEVICE void apply_tile(const Work<T>& work, const StagedTile& tile, const Stage<T>& stage) {
  const int lanes = verb == kNorms ? norm_lanes<1>(work) : 1;
#pragma unroll 1
  for (int64_t o = work.chunk.o0; o < work.chunk.o1; o += tile.rows) {
    const StagedRows<T> batch(work, tile, o);
    __syncthreads();  // the rows before are out
    if (tile.packs) {
      load_rows<kPack<T>>(batch, tile, stage);
    } else {
      load_rows<1>(batch, tile, stage);
    }
    __syncthreads();
    if constexpr (verb == kNorms) {
      add_rows(work, tile, stage, lanes, static_cast<int>(o - work.chunk.o0), batch.rows);
    } else {
      apply_to_rows<verb>(work, tile, stage, o, batch.rows);
    }
    if constexpr (verb == kNorms || verb == kCoefficients) continue;
    __syncthreads();
    if (tile.packs) {
      store_rows<kPack<T>>(batch, tile, stage);
    } else {
      store_rows<1>(batch, tile, stage);
    }
  }
  if constexpr (verb == kNorms) finish_rows(work, tile, stage.sums, lanes);
}

// A chunk in tiles of `mirrors` mirrors.
template <Verb verb, typename T>
SF_DEVICE void apply_gathered(const Work<T>& work, int mirrors) {
  SF_SHARED(StagedTile, tile, [1]);
#pragma unroll 1
  for (int64_t k0 = work.chunk.k0; k0 < work.chunk.k1; k0 += mirrors) {
    const StagedTile next = tile_of<verb>(work, k0, mirrors);
    __syncthreads();  // the tile before is done
    if (threadIdx.x == 0) tile[0] = next;
    __syncthreads();
    const Stage<T> stage(tile[0], staged_sum_bytes<verb>(work, tile[0].mirrors));
    if (!tile[0].full) mark_touched(work, tile[0], stage);
    apply_tile<verb>(work, tile[0], stage);
  }
  if constexpr (verb == kNorms) __syncthreads();  // the sums are read by other threads
}

}  // namespace symfast
