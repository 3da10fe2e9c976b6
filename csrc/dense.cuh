// SPDX-License-Identifier: Apache-2.0
// Dense frames on columns whose units are neighbours in memory (or on any column, scalar): a team
// of threads holds a column in registers, reads it once and writes it once.
//   c = A^T u,  u <- u + A (f(c) - c)
#pragma once
#include "lanes.cuh"
#include "mirror.h"

namespace symfast {

// Column (o, c): unit i at o * outer_step + c * inner_step + i * unit_step. Source may be target.
template <typename T>
struct Columns {
  const T* source;
  T* target;
  int64_t unit_step, outer_step, inner_step;
  int64_t o0, c0;
  int units, outer, inner;  // columns (o0 .. o0 + outer, c0 .. c0 + inner)

  // Every column is a row of whole packs at 16-byte boundaries.
  SF_DEVICE bool packs() const {
    constexpr int V = kPack<T>;
    const int64_t first = o0 * outer_step + c0 * inner_step;
    return unit_step == 1 && units % V == 0 && (outer == 1 || outer_step % V == 0) &&
           (inner == 1 || inner_step % V == 0) && elements_to_boundary(source + first) == 0 &&
           elements_to_boundary(target + first) == 0;
  }
};

// Element (o, k, i) of A^T at o * outer_step + k * row_step + i * unit_step.
template <typename F>
struct Frames {
  const F* data;
  int64_t outer_step, row_step, unit_step;
  int rows;

  // Rows start at 16-byte boundaries.
  SF_DEVICE bool packs() const {
    return row_step % kPack<F> == 0 && outer_step % kPack<F> == 0 &&
           elements_to_boundary(data) == 0;
  }
};

// Number of an amount, or place of a coefficient.
struct Places {
  int64_t start, outer, inner, row;

  SF_DEVICE int64_t at(int64_t o, int64_t c, int64_t k) const {
    return start + o * outer + c * inner + k * row;
  }
};

// Frames outside shared memory have F = A and neighbouring units: unit_step = 1.
// F: type of the frames in memory, C: of the coefficients that come out.
template <typename T, typename F, typename C>
struct DenseJob {
  using A = Accumulate<T>;
  Columns<T> columns;
  Frames<F> frames;
  const A* amounts;
  A amount;  // where amounts is null
  Places slots;
  bool group;  // prox: shrink a column's coefficients together
  C* out;
  Places places;
  double* partials;  // norms: one per row of A^T, per outer index, or one
  bool partial_rows, partial_outer;
  int stage_bytes;  // dynamic shared memory for frames, behind kDenseBytes

  template <Verb verb>
  SF_DEVICE A threshold(int64_t o, int64_t c, int64_t k) const {
    return amounts ? load_amount<verb>(amounts + slots.at(o, c, k)) : amount;
  }
};

// Shared memory of a dense block: coefficients of the columns in flight, or their sums of squares;
// then what sums across warps pass through.
constexpr int kCoefficientBytes = 8192;
constexpr int kScratchBytes = 8192;
constexpr int kDenseBytes = kCoefficientBytes + kScratchBytes;
// Rows of A^T that one pass over a column multiplies it with.
template <int V>
constexpr int kRowsAtOnce = V == 8 ? 2 : 4;
// Packs of its column that a thread keeps in registers.
constexpr int kKept = 4;

SF_DEVICE unsigned char* stage_memory() { return shared_memory() + kDenseBytes; }

// V neighbouring units of one row of A^T.
template <bool staged, int V, typename A, typename F>
SF_DEVICE void frame_values(const F* row, int unit, A (&a)[V]) {
  constexpr int kWide = V == 1 ? 1 : kPack<F>;
#pragma unroll
  for (int v = 0; v < V; v += kWide) {
    Pack<F, kWide> pack;
    if constexpr (staged) {
      pack = *reinterpret_cast<const Pack<F, kWide>*>(row + unit + v);
    } else {
      pack = load_pack<kWide>(row + unit + v);
    }
#pragma unroll
    for (int w = 0; w < kWide; ++w) a[v + w] = static_cast<A>(widen(pack.get(w)));
  }
}

// A team's column: pack r of a thread starts at unit (r * size + lane) * V; the first kKept
// packs are in registers, any further ones stay in memory. V divides the number of units.
template <typename T, int V>
struct Column {
  Team team;
  int units;
  int64_t step;
  const T* from;
  T* to;
  Pack<T, V> kept[kKept];

  SF_DEVICE int unit(int r) const { return (r * team.size + team.lane) * V; }

  SF_DEVICE Pack<T, V> read(int i) const { return load_pack<V>(from + i * step); }
  SF_DEVICE void write(int i, const Pack<T, V>& pack) const { store_pack<V>(to + i * step, pack); }
  SF_DEVICE void keep() {
#pragma unroll
    for (int r = 0; r < kKept; ++r) {
      if (unit(r) < units) kept[r] = read(unit(r));
    }
  }
};

}  // namespace symfast
