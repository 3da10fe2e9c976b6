// SPDX-License-Identifier: Apache-2.0
// Pairs and clusters of units that are adjacent in memory (unit dim last), for the verbs that
// change them. A row holds all units, so every unit asks for its partner by number:
//   near   partners share a vector: rows are worked on in registers;
//   far    a few rows are turned in the workspace into slots (plan_slots_simd.h), and partners
//          collected slot by slot.
#pragma once
#include <utility>

#include "ahead_simd.h"
#include "plan_partners_simd.h"

namespace symfast {
namespace SYMFAST_ISA {

constexpr int64_t kNearRows = 4;  // rows that share one load of the tables

// What a unit becomes: u with its partner w, or with the mean of its cluster.
template <Verb verb, bool clusters, typename A>
SF_INLINE Vec<A> new_unit(Vec<A> u, Vec<A> w, A amount) {
  if constexpr (clusters) {
    if constexpr (verb == kProject) return w;
    return w + new_coefficient<verb>(u - w, amount);
  } else {
    new_pair<verb>(u, w, amount);
    return u;
  }
}

template <typename A, typename Lanes>
SF_INLINE Vec<A> choose(Lanes where, Vec<A> yes, Vec<A> no) {
  return (Vec<A>)(where ? (Lanes)yes : (Lanes)no);
}

// ---- partners within a vector ----
// Units j .. j + W of some rows; `rounds` 0: pairs, else clusters of at most so many.
template <Verb verb, int rounds, typename T>
struct NearUnits {
  using A = Acc<T>;
  using N = LaneNumbers<A>;
  static constexpr int W = kLanes<A>;
  N at[rounds ? rounds : 1], untouched;
  Vec<A> share;
  const A amount;
  const bool whole;

  NearUnits(const Partners<A>& tables, A by, int64_t j) : amount(by), whole(tables.whole) {
    const uint16_t* member = rounds ? tables.member : tables.own;
    for (int m = 0; m < (rounds ? rounds : 1); ++m) {
      at[m] = load_numbers<N>(member + m * tables.units + j);
    }
    if constexpr (rounds) {
      share = load(tables.share + j);
      untouched = (N)(share == A(1));
    } else {
      N self;
      for (int i = 0; i < W; ++i) self[i] = static_cast<NumberOf<A>>(j + i);
      untouched = (N)(at[0] == self);
    }
  }

  Vec<A> partner(Vec<A> u) const {
    const Vec<A> first = permute<A>(u, at[0]);
    if constexpr (rounds == 0) return first;
    Vec<A> total = first - first;
    for (int m = 1; m < rounds; ++m) total += permute<A>(u, at[m]) - first;
    return first + total * share;
  }

  Vec<A> of(Vec<A> u) const {
    const Vec<A> found = new_unit<verb, rounds != 0>(u, partner(u), amount);
    return whole ? found : choose<A>(untouched, u, found);
  }
};

template <Verb verb, int rounds, typename T>
SF_INLINE void run_near(const Task& task, const Chunk& chunk, T* data,
                        const Partners<Acc<T>>& tables, Acc<T> amount) {
  constexpr int W = kLanes<Acc<T>>;
  const int64_t stride = task.outer_stride, units = task.units;
  for (int64_t o = chunk.o0; o < chunk.o1; o += kNearRows) {
    const int64_t rows = chunk.o1 - o < kNearRows ? chunk.o1 - o : kNearRows;
    T* first = data + task.base + o * stride;
    for (int64_t j = 0; j < units; j += W) {
      const NearUnits<verb, rounds, T> vector(tables, amount, j);
      const int64_t count = units - j;
      for (int64_t r = 0; r < rows; ++r) {
        T* p = first + r * stride + j;
        if (count >= W) {
          store(p, vector.of(load(p)));
        } else {
          store_some(p, vector.of(load_some(p, count)), count);
        }
      }
    }
  }
}

// ---- partners anywhere ----
template <Verb verb, bool clusters, typename Kind, typename T>
struct FarUnits {
  using A = Acc<T>;
  static constexpr int W = kLanes<A>, R = Kind::kRows, kCount = Kind::kCount;
  const Partners<A>& tables;
  const A amount;

  // Columns j .. j + W of R rows into slots.
  template <bool full>
  SF_INLINE void fill(const T* const (&row)[R], int64_t j, int64_t count, A* slots) {
    Vec<A> v[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) v[r] = full ? load(row[r] + j) : load_some(row[r] + j, count);
    Kind::turn(v);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) store(slots + j * R + r * W, v[r]);
  }

  // Rows that do not exist read as the first.
  void fill_slots(const T* first, int64_t stride, int64_t rows) const {
    const int64_t units = tables.task->units;
    A* slots = tables.slots;
    const T* row[R];
    for (int r = 0; r < R; ++r) row[r] = r < rows ? first + r * stride : first;
    int64_t j = 0;
    for (; j + W <= units; j += W) fill<true>(row, j, W, slots);
    if (j < units) fill<false>(row, j, units - j, slots);
  }

  void find_means() const {
    const uint16_t* member = tables.member;
    const A *slots = tables.slots, *share = tables.share;
    A* means = tables.means;
    for (const uint16_t* most = tables.rounds_of; most < tables.rounds_end; ++most) {
      const Vec<A> first = Kind::collect(slots, member);
      Vec<A> total = first - first;
      for (int64_t m = *most; m > 1; --m) {
        member += kCount;
        total += Kind::collect(slots, member) - first;
      }
      member += kCount;
      store(means, first + total * load(share));
      means += W;
      share += W;
    }
  }

  // What becomes of W columns, back in R vectors of a row each.
  template <bool whole>
  void changed(Vec<A> (&found)[R], const A* from, const A* slots, const uint16_t* own,
               const uint16_t* lone) const {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec<A> u = load(slots + r * W);
      found[r] = new_unit<verb, clusters>(u, Kind::collect(from, own + r * kCount), amount);
      if constexpr (!whole) {
        found[r] = choose<A>(load_numbers<Bits64>(lone + r * (kVectorBytes / 8)) != 0, u, found[r]);
      }
    }
    Kind::turn_back(found);
  }

  template <bool whole, bool full>
  void write_rows(T* first, int64_t stride, int64_t rows, int64_t ahead) const {
    const int64_t units = tables.task->units;
    const A *slots = tables.slots, *from = clusters ? tables.means : slots;
    const uint16_t *own = tables.own, *lone = tables.lone;
    T* row[R];
    for (int r = 0; r < R; ++r) row[r] = first + r * stride;
    int64_t j = 0;
    for (; j + W <= units; j += W, own += W, lone += R * (kVectorBytes / 8), slots += R * W) {
      Vec<A> found[R];
      changed<whole>(found, from, slots, own, lone);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        ask_for(row[r] + ahead + j);
        if (full || r < rows) store(row[r] + j, found[r]);
      }
    }
    if (j == units) return;
    Vec<A> found[R];
    changed<whole>(found, from, slots, own, lone);
    for (int r = 0; r < R && r < rows; ++r) store_some(row[r] + j, found[r], units - j);
  }
};

template <Verb verb, bool clusters, typename Kind, typename T>
SF_INLINE void run_far(const Task& task, const Chunk& chunk, T* data,
                       const Partners<Acc<T>>& tables, Acc<T> amount) {
  constexpr int64_t R = Kind::kRows;
  const int64_t stride = task.outer_stride;
  const int64_t ahead = blocks_ahead(R * task.units * int64_t{sizeof(T)}) * R * stride;
  const FarUnits<verb, clusters, Kind, T> units{tables, amount};
  for (int64_t o = chunk.o0; o < chunk.o1; o += R) {
    T* row = data + task.base + o * stride;
    const int64_t rows = chunk.o1 - o < R ? chunk.o1 - o : R;
    units.fill_slots(row, stride, rows);
    if constexpr (clusters) units.find_means();
    if (tables.whole && rows == R) {
      units.template write_rows<true, true>(row, stride, rows, ahead);
    } else {
      units.template write_rows<false, false>(row, stride, rows, ahead);
    }
  }
}

template <Verb verb, typename T>
void run_pairs(const Task& task, const Chunk& chunk, T* data, const Partners<Acc<T>>& tables,
               Acc<T> amount) {
  using A = Acc<T>;
  if (tables.near) return run_near<verb, 0>(task, chunk, data, tables, amount);
  if (tables.wide) return run_far<verb, false, WideSlots<A>>(task, chunk, data, tables, amount);
  run_far<verb, false, NarrowSlots<A>>(task, chunk, data, tables, amount);
}

template <Verb verb, typename T>
void run_means(const Task& task, const Chunk& chunk, T* data, const Partners<Acc<T>>& tables,
               Acc<T> amount) {
  if (!tables.near)
    return run_far<verb, true, WideSlots<Acc<T>>>(task, chunk, data, tables, amount);
  if (tables.rounds == 2) return run_near<verb, 2>(task, chunk, data, tables, amount);
  if (tables.rounds == 4) return run_near<verb, 4>(task, chunk, data, tables, amount);
  run_near<verb, 8>(task, chunk, data, tables, amount);
}

// Whether this chunk was done here: a uniform amount, rows enough to pay for the tables, and no
// prox of clusters, which wants all their coefficients.
template <Verb verb, typename T>
bool run_gathered(const PlanCall& call, const Task& task, const Chunk& chunk, T* data,
                  Partners<Acc<T>>& tables, Acc<T>* scratch) {
  if constexpr (verb == kNorms || verb == kCoefficients) {
    return false;
  } else {
    if (task.kind == kRowsScattered || call.amount_index == kPerMirror || task.outer < 8 ||
        (task.kind == kClusters && verb == kProx)) {
      return false;
    }
    if (chunk.k0 != 0 || chunk.k1 != task.count) {
      tables.task = nullptr;  // what does this chunk instead works where the tables lie
      return false;
    }
    if (!tables.prepare(call, task, scratch)) return false;
    const Acc<T> amount = Amounts<Acc<T>>::of(call).at(task.group, 0);
    if (task.kind == kPairsScattered) {
      run_pairs<verb>(task, chunk, data, tables, amount);
    } else if constexpr (verb != kProx) {
      run_means<verb>(task, chunk, data, tables, amount);
    }
    return true;
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
