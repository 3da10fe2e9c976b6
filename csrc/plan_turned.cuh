// SPDX-License-Identifier: Apache-2.0
// Coefficients whose neighbours in memory go far apart: units lie side by side, while a row of C
// has the columns side by side. Tiles are turned in shared memory, so that both sides move whole
// sectors: number (f, g) of a tile, `f` along the parameter and `g` along the output, waits at
// stage[g * pitch + f].
#pragma once
#include "plan_box.cuh"

namespace symfast {

// Numbers of a tile: of half types twice as many, since each brings half the bytes along.
template <typename T>
constexpr int kTurned = 16384 / (sizeof(T) == 2 ? 2 : static_cast<int>(sizeof(T)));
// Neither side of a tile is shorter.
constexpr int kShortest = 32;
// Dynamic shared memory of the narrowest tile, which is the largest one.
template <typename T>
constexpr int kTurnedBytes =
    kTurned<T> / kShortest * (kShortest + 1) * static_cast<int>(sizeof(Accumulate<T>));

// f < fs, g < gs: powers of two, and an odd number of rows of banks from one g to the next.
struct TurnedShape {
  int fs, gs;
  SF_DEVICE int pitch() const { return fs + 1; }
};

template <typename T>
SF_DEVICE TurnedShape turned_shape(int fast, int turned) {
  const int fs = turned <= kShortest ? kTurned<T> / kShortest : fast <= kShortest ? kShortest : 64;
  return {fs, kTurned<T> / fs};
}

// Pack `i` of a tile whose lines are `packs` packs long, as the threads of a block take them: 8
// packs of each of 4 lines a warp, or 32 numbers of one. With the odd pitch no two of its threads
// meet in a bank, whichever way the lines run.
template <int V>
struct TurnedPlace {
  static constexpr int kNear = V == 1 ? kWarp : 8;
  int line, place;

  SF_DEVICE TurnedPlace(int i, int packs) {
    const int lane = i % kWarp, warp = i / kWarp, beside = packs / kNear;  // warps of one line
    line = (warp >> __popc(beside - 1)) * (kWarp / kNear) + lane / kNear;
    place = ((warp & (beside - 1)) * kNear + lane % kNear) * V;
  }
};

// What a source has at (f, g): a pack, or the two of a pair.
template <bool pairs, int V, typename T>
struct TurnedPack {
  Pack<T, V> a, b;

  SF_DEVICE void load(const T* from_a, const T* from_b) {
    a = load_pack<V>(from_a);
    if constexpr (pairs) b = load_pack<V>(from_b);
  }
  SF_DEVICE Accumulate<T> coefficient(int v) const {
    const Accumulate<T> x = widen(a.get(v));
    if constexpr (!pairs) return x;
    return (x - widen(b.get(v))) * Accumulate<T>(kSqrtHalf);
  }
};

// Units of a run: element (f, g) of two boxes, both with these steps.
template <bool pairs, typename T>
struct RunSource {
  const T *a, *b;
  int64_t f_step, g_step;

  template <int V>
  SF_DEVICE void load(TurnedPack<pairs, V, T>& pack, int f, int g) const {
    const int64_t place = (V > 1 ? f : f * f_step) + g * g_step;
    pack.load(a + place, b + place);
  }
};

// Units one by one: f counts mirrors, g outer indices of the chunk.
template <bool pairs, typename T>
struct ScatteredSource {
  const Work<T>& work;

  template <int V>
  SF_DEVICE void load(TurnedPack<pairs, V, T>& pack, int f, int g) const {
    const UnitPair unit = unit_pair(work.index(work.chunk.k0 + f));
    const int64_t o = work.chunk.o0 + g;
    pack.load(work.element(o, unit.a, work.chunk.c0), work.element(o, unit.b, work.chunk.c0));
  }
};

// Where a tile starts, and how much of it there is.
struct TurnedTile {
  int f0, g0, fs, gs;
};

template <int V, bool pairs, typename T, typename Source>
SF_DEVICE void load_tile(const TurnedShape& shape, const TurnedTile& tile, const Source& source,
                         Accumulate<T>* stage) {
  constexpr int kAhead = (sizeof(T) == 2 && V > 1 ? 8 : 4) / (pairs ? 2 : 1);
  const int packs = shape.fs / V, items = packs * shape.gs, pitch = shape.pitch();
  const int threads = static_cast<int>(blockDim.x);
#pragma unroll 1
  for (int first = threadIdx.x; first < items; first += kAhead * threads) {
    TurnedPack<pairs, V, T> pack[kAhead];
    int to[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const TurnedPlace<V> at(first + n * threads, packs);
      const bool here = at.line < tile.gs && at.place < tile.fs;
      to[n] = here ? at.line * pitch + at.place : -1;
      if (here) source.template load<V>(pack[n], tile.f0 + at.place, tile.g0 + at.line);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (to[n] >= 0) stage[to[n] + v] = pack[n].coefficient(v);
      }
    }
  }
}

// Number (f, g) of the tile to out + f * step + g.
template <int V, typename A>
SF_DEVICE void store_tile(const TurnedShape& shape, const TurnedTile& tile, const A* stage, A* out,
                          int64_t step) {
  const int packs = shape.gs / V, items = packs * shape.fs, pitch = shape.pitch();
#pragma unroll 1
  for (int i = threadIdx.x; i < items; i += static_cast<int>(blockDim.x)) {
    const TurnedPlace<V> at(i, packs);
    if (at.line >= tile.fs || at.place >= tile.gs) continue;
    A* to = out + (tile.f0 + at.line) * step + tile.g0 + at.place;
    const A* from = stage + at.place * pitch + at.line;
    if (at.place + V <= tile.gs) {
      Pack<A, V> pack;
#pragma unroll
      for (int v = 0; v < V; ++v) pack.set(v, from[v * pitch]);
      store_new_pack<V>(to, pack);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (at.place + v < tile.gs) store(to + v, from[v * pitch]);
      }
    }
  }
}

// Coefficients (f, g), f < fast and g < turned, of a source to out + f * step + g; by a block.
template <int V, bool pairs, typename T, typename Source>
SF_DEVICE void turn(const Source& source, int fast, int turned, Accumulate<T>* out, int64_t step) {
  using A = Accumulate<T>;
  constexpr int W = kPack<A>;
  A* stage = reinterpret_cast<A*>(shared_memory());
  const TurnedShape shape = turned_shape<T>(fast, turned);
  const bool packs = step % W == 0 && elements_to_boundary(out) == 0;
#pragma unroll 1
  for (int g0 = 0; g0 < turned; g0 += shape.gs) {
#pragma unroll 1
    for (int f0 = 0; f0 < fast; f0 += shape.fs) {
      const TurnedTile tile{f0, g0, fast - f0 < shape.fs ? fast - f0 : shape.fs,
                            turned - g0 < shape.gs ? turned - g0 : shape.gs};
      __syncthreads();  // the tile before is out
      load_tile<V, pairs, T>(shape, tile, source, stage);
      __syncthreads();
      if (packs) {
        store_tile<W>(shape, tile, stage, out, step);
      } else {
        store_tile<1>(shape, tile, stage, out, step);
      }
    }
  }
}

// A box whose middle axis is the one along the output.
template <typename T>
SF_DEVICE bool is_turned(const Box<T>& box) {
  return box.fast.out != 1 && box.middle.out == 1 && box.fast.count > 1 && box.middle.count > 1;
}

template <bool pairs, typename T>
SF_DEVICE void turn_box(const Box<T>& box) {
  constexpr int V = kColumns<kCoefficients, T>;
  const auto even = [](const Axis& axis) { return axis.count == 1 || axis.step % V == 0; };
  const bool packs = box.fast.step == 1 && box.fast.count % V == 0 && even(box.middle) &&
                     even(box.slow) && elements_to_boundary(box.start.a) == 0 &&
                     (!pairs || elements_to_boundary(box.start.b) == 0);
  const int fast = static_cast<int>(box.fast.count), turned = static_cast<int>(box.middle.count);
#pragma unroll 1
  for (int64_t far = 0; far < box.slow.count; ++far) {
    const RunSource<pairs, T> source{box.start.a + far * box.slow.step,
                                     box.start.b + far * box.slow.step, box.fast.step,
                                     box.middle.step};
    Accumulate<T>* out = box.start.out + far * box.slow.out;
    if (packs) {
      turn<V, pairs, T>(source, fast, turned, out, box.fast.out);
    } else {
      turn<1, pairs, T>(source, fast, turned, out, box.fast.out);
    }
  }
}

// Scattered units that lie side by side, of columns that the output has side by side.
template <typename T>
SF_DEVICE bool is_turned(const Work<T>& work) {
  return work.units_first() && work.inner() == 1 && work.outer() > 1 && work.mirrors() > 1 &&
         work.task.out_outer == 1 && work.task.out_row != 1;
}

template <bool pairs, typename T>
SF_DEVICE void turn_scattered(const Work<T>& work) {
  const Chunk& chunk = work.chunk;
  turn<1, pairs, T>(ScatteredSource<pairs, T>{work}, work.mirrors(), work.outer(),
                    work.output(chunk.k0, chunk.o0, chunk.c0), work.task.out_row);
}

}  // namespace symfast
