// SPDX-License-Identifier: Apache-2.0
// Dense frames on columns that are neighbours in memory: `lanes` threads side by side take V
// columns each, `slices` of them share the units of these columns (unit i belongs to slice i %
// slices). What a thread reads stays in shared memory as far as it fits, for the second walk.
#pragma once
#include "dense.cuh"

namespace symfast {

// A block's shape, and this thread's place in it.
struct Tile {
  int lanes, slices, lane, slice;
};

SF_DEVICE Tile tile_of(int packs, int units, int kept) {
  constexpr int kFewest = 8;  // lanes: 128 bytes of a row
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int each = kept > 0 ? kept : 1;
  int slices = power_of_two((units + each - 1) / each, threads / kFewest);
  const int for_all = threads / power_of_two(packs, threads);  // no lane without a column
  slices = slices < for_all ? for_all : slices;
  const int lanes = threads / slices;
  return {lanes, slices, thread % lanes, thread / lanes};
}

// Sum of `values` over the slices, for every lane: to sums[lane * V + v], seen by all threads.
template <int V, typename A>
SF_DEVICE void sum_over_slices(const Tile& tile, A (&values)[V], A* scratch, A* sums) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll 1
    for (int offset = tile.lanes; offset < kWarp; offset *= 2) {
      values[v] += __shfl_xor_sync(kAllLanes, values[v], offset);
    }
  }
  const int width = tile.lanes * V, thread = static_cast<int>(threadIdx.x);
  const int set = tile.lanes < kWarp ? thread / kWarp : tile.slice;
  const int sets = tile.lanes < kWarp ? static_cast<int>(blockDim.x) / kWarp : tile.slices;
  if (tile.lanes >= kWarp || thread % kWarp < tile.lanes) {
#pragma unroll
    for (int v = 0; v < V; ++v) scratch[set * width + tile.lane * V + v] = values[v];
  }
  __syncthreads();
#pragma unroll 1
  for (int n = thread; n < width; n += static_cast<int>(blockDim.x)) {
    A sum = scratch[n];
#pragma unroll 1
    for (int s = 1; s < sets; ++s) sum += scratch[s * width + n];
    sums[n] = sum;
  }
  __syncthreads();
}

template <typename T, int V>
struct TileColumns {
  using A = Accumulate<T>;
  const DenseJob<T, A, A>& job;
  Tile tile;
  T* column;  // unit 0 of this thread's columns, or null
  const A* frame;
  Pack<T, V>* kept;  // this thread's packs, blockDim.x apart
  int rows_kept;

  SF_DEVICE T* unit(int i) const { return column + i * job.columns.unit_step; }

  // Calls visit(i, pack) for this thread's units; the first walk of all keeps what it reads.
  template <bool keep, typename Visit>
  SF_DEVICE void walk(bool again, Visit&& visit) const {
    if (!column) return;
    int row = 0;
#pragma unroll 1
    for (int i = tile.slice; i < job.columns.units; i += tile.slices, ++row) {
      const bool here = row < rows_kept;
      Pack<T, V> pack = here && again ? kept[row * blockDim.x] : load_pack<V>(unit(i));
      visit(i, pack, row);
      if (keep && here && !again) kept[row * blockDim.x] = pack;
    }
  }

  // Coefficients [k0, k1) of the tile's columns to coefficients[(k - k0) * width + column].
  SF_DEVICE void coefficients(int k0, int k1, bool again, A* coefficients, A* scratch) const {
#pragma unroll 1
    for (int k = k0; k < k1; k += kRowsAtOnce<V>) {
      A c[kRowsAtOnce<V>][V] = {};
      walk<true>(again || k > k0, [&](int i, const Pack<T, V>& pack, int) {
#pragma unroll
        for (int n = 0; n < kRowsAtOnce<V>; ++n) {
          if (k + n >= k1) continue;
          const A a = load_table(frame + (k + n) * job.frames.row_step + i);
#pragma unroll
          for (int v = 0; v < V; ++v) c[n][v] += a * widen(pack.get(v));
        }
      });
#pragma unroll
      for (int n = 0; n < kRowsAtOnce<V>; ++n) {
        if (k + n >= k1) continue;
        sum_over_slices<V>(tile, c[n], scratch, coefficients + (k + n - k0) * tile.lanes * V);
      }
    }
  }

  // Columns += sum over rows [k0, k1) of steps times rows of A^T.
  SF_DEVICE void add(int k0, int k1, const A* steps) const {
    const int width = tile.lanes * V;
    walk<false>(true, [&](int i, Pack<T, V>& pack, int row) {
      A u[V];
#pragma unroll
      for (int v = 0; v < V; ++v) u[v] = widen(pack.get(v));
#pragma unroll 1
      for (int k = k0; k < k1; ++k) {
        const A a = load_table(frame + k * job.frames.row_step + i);
#pragma unroll
        for (int v = 0; v < V; ++v) u[v] += a * steps[(k - k0) * width + tile.lane * V + v];
      }
#pragma unroll
      for (int v = 0; v < V; ++v) pack.set(v, narrow<T>(u[v]));
      store_pack<V>(unit(i), pack);
      if (k1 < job.frames.rows && row < rows_kept) kept[row * blockDim.x] = pack;
    });
  }
};

// f on the coefficients [k0, k1) of the columns [c, c + width); by all threads together.
template <Verb verb, typename T>
SF_DEVICE void finish_tile(const DenseJob<T, Accumulate<T>, Accumulate<T>>& job,
                           Accumulate<T>* coefficients, int k0, int k1, int64_t o, int c,
                           int width) {
  using A = Accumulate<T>;
#pragma unroll 1
  for (int n = threadIdx.x; n < (k1 - k0) * width; n += blockDim.x) {
    const Split place = split(n, width);
    const int k = place.quotient, x = place.rest;
    if (c + x >= job.columns.inner) continue;
    const int64_t column = job.columns.c0 + c + x;
    if constexpr (verb == kCoefficients) {
      store(job.out + job.places.at(o, column, k0 + k), coefficients[n]);
    } else {
      A amount = 0;
      if constexpr (takes_amounts(verb)) amount = job.template threshold<verb>(o, column, k0 + k);
      coefficients[n] = new_coefficient<verb>(coefficients[n], amount) - coefficients[n];
    }
  }
  __syncthreads();
}

// sums[k] += sum over the tile's columns of squared coefficients, a warp per row.
template <typename A>
SF_DEVICE void add_squares(double* sums, const A* coefficients, int rows, int width) {
  const int warps = static_cast<int>(blockDim.x) / kWarp, thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int first = 0; first < rows; first += warps) {
    const int k = first + thread / kWarp;
    double sum = 0;
#pragma unroll 1
    for (int x = thread % kWarp; k < rows && x < width; x += kWarp) {
      sum += static_cast<double>(coefficients[k * width + x]) * coefficients[k * width + x];
    }
#pragma unroll 1
    for (int offset = 1; offset < kWarp; offset *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, offset);
    }
    if (k < rows && thread % kWarp == 0) sums[k] += sum;
  }
  __syncthreads();
}

// All columns of the job for the rows [k0, k1); apply goes through all rows at once.
template <Verb verb, int V, typename T>
SF_DEVICE void walk_tiles(TileColumns<T, V>& columns, int k0, int k1, int rows_at_once,
                          Accumulate<T>* coefficients, Accumulate<T>* scratch, double* sums) {
  const auto& job = columns.job;
  const int width = columns.tile.lanes * V;
#pragma unroll 1
  for (int first_o = 0; first_o < job.columns.outer; ++first_o) {
    const int64_t o = job.columns.o0 + first_o;
    columns.frame = job.frames.data + o * job.frames.outer_step;
#pragma unroll 1
    for (int c = 0; c < job.columns.inner; c += width) {
      const int mine = c + columns.tile.lane * V;
      const int64_t place =
          o * job.columns.outer_step + (job.columns.c0 + mine) * job.columns.inner_step;
      columns.column = mine < job.columns.inner ? job.columns.target + place : nullptr;
#pragma unroll 1
      for (int k = k0; k < k1; k += rows_at_once) {
        const int end = k + rows_at_once < k1 ? k + rows_at_once : k1;
        columns.coefficients(k, end, k > k0, coefficients, scratch);
        if constexpr (verb == kNorms) {
          add_squares(sums, coefficients, end - k, width);
        } else {
          finish_tile<verb, T>(job, coefficients, k, end, o, c, width);
          if constexpr (verb != kCoefficients) {
            columns.add(k, end, coefficients);
            __syncthreads();
          }
        }
      }
    }
  }
}

template <Verb verb, int V, typename T>
SF_DEVICE void dense_tiles(const DenseJob<T, Accumulate<T>, Accumulate<T>>& job) {
  using A = Accumulate<T>;
  constexpr int kCoefficients = kCoefficientBytes / sizeof(A), kSums = 64;
  static_assert(kBlock * V * sizeof(A) <= kScratchBytes);
  SF_SHARED(double, sums, [kSums]);
  A* coefficients = reinterpret_cast<A*>(shared_memory());
  A* scratch = reinterpret_cast<A*>(shared_memory() + kCoefficientBytes);
  TileColumns<T, V> columns{job, {}, nullptr, nullptr, nullptr, 0};
  columns.kept = reinterpret_cast<Pack<T, V>*>(stage_memory()) + threadIdx.x;
  columns.rows_kept = job.stage_bytes / static_cast<int>(blockDim.x * sizeof(Pack<T, V>));
  columns.tile = tile_of((job.columns.inner + V - 1) / V, job.columns.units, columns.rows_kept);
  const int rows = job.frames.rows, fit = kCoefficients / (columns.tile.lanes * V);
  if constexpr (verb != kNorms) {
    walk_tiles<verb>(columns, 0, rows, fit, coefficients, scratch, sums);
    return;
  }
  double total = 0;
  const int sweep = fit < kSums ? fit : kSums;
#pragma unroll 1
  for (int k0 = 0; k0 < rows; k0 += sweep) {
    const int k1 = k0 + sweep < rows ? k0 + sweep : rows;
    __syncthreads();
#pragma unroll 1
    for (int k = threadIdx.x; k < kSums; k += blockDim.x) sums[k] = 0;
    __syncthreads();
    walk_tiles<verb>(columns, k0, k1, sweep, coefficients, scratch, sums);
#pragma unroll 1
    for (int k = threadIdx.x; job.partial_rows && k < k1 - k0; k += blockDim.x) {
      store(job.partials + k0 + k, sums[k]);
    }
#pragma unroll 1
    for (int k = 0; k < k1 - k0; ++k) total += sums[k];
  }
  if (!job.partial_rows && threadIdx.x == 0) store(job.partials, total);
}

}  // namespace symfast
