// SPDX-License-Identifier: Apache-2.0
// Sums of squares per mirror, in a fixed order: each chunk writes one double per mirror it touches;
// plan_sums.cuh adds up those of mirrors that have several chunks.
#pragma once
#include "plan_cluster.cuh"
#include "plan_index.cuh"

namespace symfast {

// The pair of units of mirror k: runs are sorted by their first mirror.
template <typename T>
SF_DEVICE UnitPair find_units(const Work<T>& work, int64_t k) {
  const int64_t kind = work.task.kind;
  if (kind == kRowsScattered || kind == kPairsScattered) return unit_pair(work.index(k));
  int64_t run = work.chunk.first, end = work.task.count;
  while (end - run > 1) {
    const int64_t middle = run + (end - run) / 2;
    const bool before = work.index(4 * middle + 3) <= k;
    run = before ? middle : run;
    end = before ? end : middle;
  }
  const int64_t from = k - work.index(4 * run + 3);
  return {work.index(4 * run) + from, work.index(4 * run + 1) + from};
}

// Squares of the coefficients of one pair or row in a pack of columns.
template <int V, typename T>
SF_DEVICE Accumulate<T> squares(const Pack<T, V>& a, const Pack<T, V>& b, bool pairs) {
  using A = Accumulate<T>;
  A sum = 0;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    A x = widen(a.get(v));
    if (pairs) x = (x - widen(b.get(v))) * A(kSqrtHalf);
    sum += x * x;
  }
  return sum;
}

// A thread's share of one row or pair of units: every step-th pack of columns from `lane` on,
// several loads in flight.
template <int V, typename T>
SF_DEVICE double unit_squares(const Work<T>& work, int64_t k, int lane, int step) {
  constexpr int kAhead = V == 1 ? 8 : 4;
  const int columns = work.inner() / V, items = work.outer() * columns;
  const bool pairs = work.task.kind == kPairs || work.task.kind == kPairsScattered;
  const UnitPair units = find_units(work, k);
  double sum = 0;
#pragma unroll 1
  for (int first = lane; first < items; first += kAhead * step) {
    Pack<T, V> a[kAhead], b[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      if (first + n * step >= items) continue;
      const Split column = split(first + n * step, columns);
      const int64_t o = work.chunk.o0 + column.quotient, c = work.chunk.c0 + column.rest * V;
      a[n] = load_pack<V>(work.element(o, units.a, c));
      if (pairs) b[n] = load_pack<V>(work.element(o, units.b, c));
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      if (first + n * step < items) sum += squares<V>(a[n], b[n], pairs);
    }
  }
  return sum;
}

template <int V, typename T>
SF_DEVICE double cluster_squares(const Work<T>& work, int64_t k, int lane, int step) {
  const int columns = work.inner() / V, items = work.outer() * columns;
  const Cluster cluster = cluster_of(work, k);
  double sum = 0;
#pragma unroll 1
  for (int item = lane; item < items; item += step) {
    const Split column = split(item, columns);
    const int64_t o = work.chunk.o0 + column.quotient, c = work.chunk.c0 + column.rest * V;
    sum += cluster_read<kNorms, V>(work, cluster, column_members<V>(work, o, c), o, c);
  }
  return sum;
}

// How many threads share a mirror of the chunk.
template <int V, typename T>
SF_DEVICE int norm_lanes(const Work<T>& work) {
  const int threads = static_cast<int>(blockDim.x);
  const int size = power_of_two(work.outer() * (work.inner() / V), threads);
  if (!work.units_first()) return size;
  const int rest = threads / power_of_two(work.mirrors(), threads);
  return size < rest ? size : rest;
}

// Neighbouring threads take neighbouring memory: packs of columns of one mirror, or, where units
// are adjacent, mirrors.
template <int V, typename T>
SF_DEVICE void norms(const Work<T>& work, double* sums) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const bool units_first = work.units_first(), clusters = work.task.kind == kClusters;
  const int size = norm_lanes<V>(work), teams = threads / size;
  const int lane = units_first ? thread / teams : thread % size;
  const int team = units_first ? thread % teams : thread / size;
  double* mine = sums + team * size;
#pragma unroll 1
  for (int64_t first = work.chunk.k0; first < work.chunk.k1; first += teams) {
    const int64_t k = first + team;
    double sum = 0;
    if (k < work.chunk.k1) {
      sum =
          clusters ? cluster_squares<V>(work, k, lane, size) : unit_squares<V>(work, k, lane, size);
    }
    mine[lane] = sum;
#pragma unroll 1
    for (int half = size / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane < half) mine[lane] += mine[lane + half];
    }
    if (lane == 0 && k < work.chunk.k1) {
      store(work.arguments.partials + work.chunk.partial + k - work.chunk.k0, mine[0]);
    }
    __syncthreads();
  }
}

// Chunks of index frames and clusters.
template <typename T>
SF_DEVICE void index_norms(const Work<T>& work) {
  SF_SHARED(double, sums, [kBlock]);
  if (work.columns_pack()) {
    norms<kPack<T>>(work, sums);
  } else {
    norms<1>(work, sums);
  }
}

}  // namespace symfast
