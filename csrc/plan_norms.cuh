// SPDX-License-Identifier: Apache-2.0
// Sums of squares per mirror, in a fixed order: each chunk writes one double per mirror it touches;
// where a mirror has several chunks, a second launch adds up those of every mirror, in chunk order.
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
    sum += cluster_read<kNorms, V>(work, cluster, o, c);
  }
  return sum;
}

// Neighbouring threads take neighbouring memory: packs of columns of one mirror, or, where units
// are adjacent, mirrors.
template <int V, typename T>
SF_DEVICE void norms(const Work<T>& work, double* sums) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const bool units_first = work.units_first(), clusters = work.task.kind == kClusters;
  int size = power_of_two(work.outer() * (work.inner() / V), threads);
  if (units_first) {
    const int rest = threads / power_of_two(work.mirrors(), threads);
    size = size < rest ? size : rest;
  }
  const int teams = threads / size;
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

// The mirrors of a chunk: first, first + step, .. `count` of them, one partial sum each.
struct Partials {
  int64_t first, count, step, place;

  SF_DEVICE bool meets(int64_t begin, int64_t end) const {
    return count > 0 && first < end && first + (count - 1) * step >= begin;
  }
  // Where the mirror's sum is, or -1.
  SF_DEVICE int64_t at(int64_t mirror) const {
    const int64_t distance = mirror - first;
    if (distance < 0 || distance >= count * step) return -1;
    const Split position = split(static_cast<int>(distance), static_cast<int>(step));
    return position.rest == 0 ? place + position.quotient : -1;
  }
};

SF_DEVICE Partials partials_of(const int64_t* tasks, const int64_t* chunks, int64_t number) {
  const Chunk* chunk = reinterpret_cast<const Chunk*>(chunks) + number;
  const Task* task = reinterpret_cast<const Task*>(tasks) + load_table(&chunk->task);
  const int64_t mirror = load_table(&task->mirror), place = load_table(&chunk->partial);
  if (load_table(&task->kind) != kDense) {
    const int64_t k0 = load_table(&chunk->k0);
    return {mirror + k0, load_table(&chunk->k1) - k0, 1, place};
  }
  const int64_t by_row = load_table(&task->mirror_column_step);
  if (by_row > 0) return {mirror, load_table(&task->count), by_row, place};
  const int64_t step = load_table(&task->mirror_step);
  if (step == 0) return {mirror, 1, 1, place};
  const int64_t o0 = load_table(&chunk->o0);
  return {mirror + o0 * step, load_table(&chunk->o1) - o0, step, place};
}

struct NormArguments {
  const int64_t *tasks, *chunks;
  const double* partials;
  double* sums;
  int64_t chunk_count, mirrors;
};

// The chunks among blockDim.x from `first` on that touch mirrors [begin, end), to `kept` in order;
// returns how many. All threads of the block together.
SF_DEVICE int keep_partials(const NormArguments& a, int64_t first, int64_t begin, int64_t end,
                            Partials* kept, int* found) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  Partials mine{0, 0, 1, 0};
  if (first + thread < a.chunk_count) mine = partials_of(a.tasks, a.chunks, first + thread);
  const unsigned votes = __ballot_sync(kAllLanes, mine.meets(begin, end));
  __syncthreads();  // kept is still being read
  if (lane == 0) found[thread / kWarp] = __popc(votes);
  __syncthreads();
  int before = 0, total = 0;
#pragma unroll 1
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    before += w < thread / kWarp ? found[w] : 0;
    total += found[w];
  }
  if (votes >> lane & 1) kept[before + __popc(votes & ((1u << lane) - 1))] = mine;
  __syncthreads();
  return total;
}

// One thread per mirror. The block looks at all chunks, blockDim.x at a time, and keeps those that
// touch one of its mirrors.
template <int = 0>
SF_KERNEL(kBlock, 4)
sum_partials(SF_ARGUMENT NormArguments arguments) {
  SF_SHARED(Partials, kept, [kBlock]);
  SF_SHARED(int, found, [kBlock / kWarp]);
  const int64_t threads = blockDim.x;
#pragma unroll 1
  for (int64_t begin = blockIdx.x * threads; begin < arguments.mirrors;
       begin += gridDim.x * threads) {
    const int64_t mirror = begin + threadIdx.x;
    double sum = 0;
#pragma unroll 1
    for (int64_t first = 0; first < arguments.chunk_count; first += threads) {
      const int total = keep_partials(arguments, first, begin, begin + threads, kept, found);
#pragma unroll 1
      for (int n = 0; n < total; ++n) {
        const int64_t at = kept[n].at(mirror);
        if (at >= 0) sum += load(arguments.partials + at);
      }
    }
    if (mirror < arguments.mirrors) store(arguments.sums + mirror, sum);
  }
}

}  // namespace symfast
