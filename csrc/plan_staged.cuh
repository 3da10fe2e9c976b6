// SPDX-License-Identifier: Apache-2.0
// Units side by side that are gathered: members of clusters, and rows and pairs one by one.
// Straight from memory, neighbouring threads would use a part of every sector. Instead a block
// takes the rows of memory, an outer index each, from the first to the last unit that some mirrors
// touch, into shared memory, does the verb there, and writes them back; on both ways neighbouring
// threads are on neighbouring memory, and what the mirrors do not touch is neither read nor
// written.
#pragma once
#include "plan_norms.cuh"

namespace symfast {

constexpr int kSectorBytes = 32;
// Fewer mirrors than this are not worth a tile of their own.
constexpr int kFewestMirrors = 32;
// Rows that one wants at once: they make the coefficients of a mirror fill a sector.
constexpr int kRowsWanted = 8;

// Dynamic shared memory for rows of so many units (norms: and a sum of every mirror), at most what
// leaves an SM its three blocks.
constexpr int kStagedBytes = 40 * 1024;
template <Verb verb, typename T>
int staged_bytes(int64_t units) {
  constexpr int64_t kEach = kRowsWanted * sizeof(T) + 1 + (verb == kNorms ? sizeof(double) : 0);
  const int64_t bytes = (units + 4) * kEach;
  return bytes < kStagedBytes ? static_cast<int>(bytes) : kStagedBytes;
}

// Mirrors k0 .. k0 + mirrors, whose units lie within unit .. unit + width, and as many rows of them
// as shared memory holds, a power of two; no rows: they do not go through shared memory.
struct StagedTile {
  int64_t k0, unit;
  int mirrors, width, pitch, rows;
  int slack;   // elements that may lie between the start of a sector and that of a row
  bool full;   // all units of the span are touched
  bool packs;  // and fill packs
};

template <typename T>
SF_DEVICE int past_sector(const T* p) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(p) % kSectorBytes / sizeof(T));
}

// The parts of shared memory: sums of every mirror (norms), rows, and which units are touched.
template <typename T>
struct Stage {
  double* sums;
  T* rows;
  uint8_t* touched;

  SF_DEVICE Stage(const StagedTile& tile, int64_t sum_bytes) {
    unsigned char* memory = shared_memory();
    sums = reinterpret_cast<double*>(memory);
    rows = reinterpret_cast<T*>(memory + sum_bytes);
    touched = reinterpret_cast<uint8_t*>(rows + tile.rows * tile.pitch);
  }
};

// From row to row an odd number of banks.
template <typename T>
SF_DEVICE int staged_pitch(int width) {
  return sizeof(T) == 2 ? width + ((2 - width) & 3) : width | 1;
}

template <Verb verb, typename T>
SF_DEVICE int64_t staged_sum_bytes(const Work<T>& work, int64_t mirrors) {
  return verb == kNorms ? (mirrors * norm_lanes<1>(work) * 8 + 15) & ~15 : 0;
}

// Calls visit(unit) for all units of mirrors k0 .. k1, each by one thread; returns how many.
template <typename T, typename Visit>
SF_DEVICE int64_t for_units(const Work<T>& work, int64_t k0, int64_t k1, Visit&& visit) {
  const bool clusters = work.task.kind == kClusters, pairs = work.task.kind == kPairsScattered;
  const int64_t origin = clusters ? work.task.count + 1 - work.index(0) : 0;
  const int64_t first = clusters ? work.index(k0) : k0, end = clusters ? work.index(k1) : k1;
#pragma unroll 1
  for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
    const int64_t word = work.index(origin + i);
    const UnitPair unit = clusters ? UnitPair{word, word} : unit_pair(word);
    visit(unit.a);
    if (pairs) visit(unit.b);
  }
  return (end - first) * (pairs ? 2 : 1);
}

struct UnitSpan {
  int64_t first, last, count;
};

template <typename T>
SF_DEVICE UnitSpan span_of(const Work<T>& work, int64_t k0, int64_t k1) {
  SF_SHARED(int64_t, ends, [2 * kBlock / kWarp]);
  int64_t first = work.task.units, last = 0;
  const int64_t count = for_units(work, k0, k1, [&](int64_t unit) {
    first = unit < first ? unit : first;
    last = unit > last ? unit : last;
  });
#pragma unroll 1
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int64_t a = __shfl_xor_sync(kAllLanes, first, offset);
    const int64_t b = __shfl_xor_sync(kAllLanes, last, offset);
    first = a < first ? a : first;
    last = b > last ? b : last;
  }
  __syncthreads();  // nobody reads the ends of the span before
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % kWarp == 0) {
    ends[thread / kWarp * 2] = first;
    ends[thread / kWarp * 2 + 1] = last;
  }
  __syncthreads();
#pragma unroll 1
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    first = ends[2 * w] < first ? ends[2 * w] : first;
    last = ends[2 * w + 1] > last ? ends[2 * w + 1] : last;
  }
  return {first, last, count};
}

// The tile of mirrors k0 .. k0 + most. Sectors must hold a touched unit on average, and threads
// enough to do.
template <Verb verb, typename T>
SF_DEVICE StagedTile tile_of(const Work<T>& work, int64_t k0, int most) {
  constexpr int kSize = static_cast<int>(sizeof(T)), kSector = kSectorBytes / kSize;
  const int64_t k1 = k0 + most < work.chunk.k1 ? k0 + most : work.chunk.k1;
  const UnitSpan span = span_of(work, k0, k1);
  const int64_t width = span.last - span.first + 1;
  StagedTile tile{k0, span.first, static_cast<int>(k1 - k0), 0,    0,
                  0,  0,          width == span.count,       false};
  int64_t left = work.arguments.cache_bytes - staged_sum_bytes<verb>(work, tile.mirrors);
  if (width * kSize > left || width > span.count * kSector) return tile;
  tile.width = static_cast<int>(width);
  tile.pitch = staged_pitch<T>(tile.width);
  const auto even = [&](int by) { return work.outer() == 1 || work.task.outer_stride % by == 0; };
  const T* first = work.element(work.chunk.o0, tile.unit, work.chunk.c0);
  tile.slack = past_sector(first) == 0 && even(kSector) ? 0 : kSector - 1;
  tile.packs =
      tile.full && tile.width % kPack<T> == 0 && elements_to_boundary(first) == 0 && even(kPack<T>);
  if (!tile.full) left -= tile.width;
  const int bytes = tile.pitch * kSize;
  if (bytes > left) return tile;
  int rows = 1;
  while (rows < work.outer() && 2 * rows * bytes <= left) rows *= 2;
  if (rows >= work.outer() || rows * tile.mirrors >= kBlock / 2) tile.rows = rows;
  return tile;
}

// Mirrors a tile: as many as leave room for `rows` rows of all tiles of a chunk; 0 where none do.
template <Verb verb, typename T>
SF_DEVICE int mirrors_a_tile(const Work<T>& work, int rows) {
  const int all = work.mirrors();
#pragma unroll 1
  for (int mirrors = power_of_two(all, 1 << 30);; mirrors /= 2) {
    int64_t k0 = work.chunk.k0;
    while (k0 < work.chunk.k1 && tile_of<verb>(work, k0, mirrors).rows >= rows) k0 += mirrors;
    if (k0 >= work.chunk.k1) return mirrors;
    if (mirrors <= kFewestMirrors) return 0;
  }
}

template <Verb verb, typename T>
SF_DEVICE int staged_mirrors(const Work<T>& work) {
  const bool empty = work.mirrors() < 1 || work.outer() < 1 || work.inner() < 1;
  if (!is_gathered(work.task) || empty) return 0;
  if (verb == kCoefficients && work.outer() > 1) {
    const int rows = power_of_two(work.outer(), kRowsWanted);
    const int mirrors = mirrors_a_tile<verb>(work, rows);
    if (mirrors > 0) return mirrors;
  }
  return mirrors_a_tile<verb>(work, 1);
}

// ---- between memory and shared memory ----

// The way of a thread through the rows of a tile. Warps beside each other take what lies beside
// each other: V = 1, 32 elements of a row, else 8 packs of each of 4 rows, if there are so many:
// then the odd pitch keeps threads from each other's banks.
template <int V>
struct StagedWalk {
  int row, row_step, base, first, step, offset;

  SF_DEVICE explicit StagedWalk(int rows) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    const int near = V > 1 && rows >= 4 ? 8 : kWarp, lines = kWarp / near;
    const int groups = rows / lines, beside = warps > groups ? warps / groups : 1;
    row = warp / beside * lines + lane / near;
    row_step = warps / beside * lines;
    first = base = warp % beside * near * V;
    step = beside * near * V;
    offset = lane % near * V;
  }
  SF_DEVICE void advance(int limit) {
    base += step;
    if (base < limit) return;
    base = first;
    row += row_step;
  }
};

// Where a batch of rows lies in memory: its first row, from the first unit of the tile on.
template <typename T>
struct StagedRows {
  T* from;
  int64_t step;
  int rows;

  SF_DEVICE StagedRows(const Work<T>& work, const StagedTile& tile, int64_t o)
      : from(work.element(o, tile.unit, work.chunk.c0)), step(work.task.outer_stride) {
    const int64_t left = work.chunk.o1 - o;
    rows = left < tile.rows ? static_cast<int>(left) : tile.rows;
  }
};

// What a thread has at a place of its way: the element or pack at `memory` waits at rows[at] of the
// stage.
template <int V, typename T>
struct StagedPlace {
  T* memory;
  int at;  // in the stage; -1: the thread has nothing here

  SF_DEVICE StagedPlace(const StagedWalk<V>& walk, const StagedRows<T>& batch,
                        const StagedTile& tile, const Stage<T>& stage) {
    T* line = batch.from + walk.row * batch.step;
    int place = walk.base + walk.offset;
    if constexpr (V == 1) place -= tile.slack > 0 ? past_sector(line) : 0;
    bool here = walk.row < batch.rows && place >= 0 && place < tile.width;
    if constexpr (V == 1) here = here && (tile.full || stage.touched[place]);
    memory = line + place;
    at = here ? walk.row * tile.pitch + place : -1;
  }
};

template <int V, typename T>
SF_DEVICE void load_rows(const StagedRows<T>& batch, const StagedTile& tile,
                         const Stage<T>& stage) {
  constexpr int kAhead = V > 1 || sizeof(T) == 2 ? 4 : 8;
  const int limit = tile.width + (V > 1 ? 0 : tile.slack);
  StagedWalk<V> walk(tile.rows);
#pragma unroll 1
  while (walk.row < batch.rows) {
    Pack<T, V> pack[kAhead];
    int to[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const StagedPlace<V, T> place(walk, batch, tile, stage);
      pack[n] = load_pack_where<V>(place.at >= 0, place.memory);
      to[n] = place.at;
      walk.advance(limit);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (to[n] >= 0) stage.rows[to[n] + v] = pack[n].get(v);
      }
    }
  }
}

template <int V, typename T>
SF_DEVICE void store_rows(const StagedRows<T>& batch, const StagedTile& tile,
                          const Stage<T>& stage) {
  const int limit = tile.width + (V > 1 ? 0 : tile.slack);
  StagedWalk<V> walk(tile.rows);
#pragma unroll 1
  while (walk.row < batch.rows) {
    const StagedPlace<V, T> place(walk, batch, tile, stage);
    Pack<T, V> pack{};
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (place.at >= 0) pack.set(v, stage.rows[place.at + v]);
    }
    store_new_pack_where<V>(place.at >= 0, place.memory, pack);
    walk.advance(limit);
  }
}

}  // namespace symfast
