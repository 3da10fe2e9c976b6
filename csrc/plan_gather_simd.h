// SPDX-License-Identifier: Apache-2.0
// Pairs and clusters of units that are adjacent in memory (unit dim last), for the verbs that
// change them. A row holds all units, so every unit asks for its partner by number:
//   near   partners share a vector: rows are worked on in registers;
//   far    a few rows, as many as fill 8 bytes, are interleaved in the workspace, one 8-byte slot
//          a unit, and partners are gathered slot by slot.
#pragma once
#include <utility>

#include "plan_partners_simd.h"

namespace symfast {
namespace SYMFAST_ISA {

constexpr int64_t kNearRows = 4;       // rows that share one load of the tables
constexpr int64_t kFirstLevel = 2048;  // units whose slots leave room for the next rows beside them

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
template <typename A, int first, int step, int... lane>
SF_INLINE Vec<A> interleave(Vec<A> a, Vec<A> b, std::integer_sequence<int, lane...>) {
  constexpr int W = kLanes<A>;
  if constexpr (step == 1) return shuffle<A, (first + lane / 2 + (lane & 1) * W)...>(a, b);
  return shuffle<A, (first + 2 * lane)...>(a, b);
}

template <Verb verb, bool clusters, typename T>
struct FarUnits {
  using A = Acc<T>;
  static constexpr int W = kLanes<A>, R = kSlotRows<A>;
  using Lane = std::make_integer_sequence<int, W>;
  const Partners<A>& tables;
  const A amount;

  SF_INLINE Vec<A> read(const T* p, int64_t count) {
    return count >= W ? load(p) : load_some(p, count);
  }
  SF_INLINE void write(T* p, Vec<A> v, int64_t count) {
    count >= W ? store(p, v) : store_some(p, v, count);
  }

  // R rows into slots; a second row that does not exist reads as the first.
  void interleave_rows(const T* row, int64_t second) const {
    for (int64_t j = 0; j < tables.units; j += W) {
      const int64_t count = tables.task->units - j;
      const Vec<A> a = read(row + j, count);
      if constexpr (R == 1) {
        store(tables.slots + j, a);
      } else {
        const Vec<A> b = read(row + second + j, count);
        store(tables.slots + 2 * j, interleave<A, 0, 1>(a, b, Lane()));
        store(tables.slots + 2 * j + W, interleave<A, W / 2, 1>(a, b, Lane()));
      }
    }
  }

  void find_means() const {
    const uint16_t* member = tables.member;
    for (int64_t q = 0; q < tables.task->count; q += kSlots) {
      const auto next = [&] {
        const Slots at = load_numbers<Slots>(member);
        member += kSlots;
        return gather(tables.slots, at);
      };
      const Vec<A> first = next();
      Vec<A> total = first - first;
      for (int64_t m = tables.rounds_of[q / kSlots]; m > 1; --m) total += next() - first;
      store(tables.means + q * R, first + total * load(tables.share + q * R));
    }
  }

  template <int hint>
  void write_rows(T* row, int64_t second, int64_t ahead) const {
    const A* from = clusters ? tables.means : tables.slots;
    Slots self;
    for (int i = 0; i < kSlots; ++i) self[i] = clusters ? tables.task->count : i;
    for (int64_t j = 0; j < tables.units; j += W) {
      Vec<A> found[R];
      for (int r = 0; r < R; ++r) {
        const Slots own = load_numbers<Slots>(tables.own + j + r * kSlots);
        const Vec<A> u = load(tables.slots + j * R + r * W);
        found[r] = new_unit<verb, clusters>(u, gather(from, own), amount);
        if (!tables.whole) found[r] = choose<A>(Slots(own == self), u, found[r]);
        if constexpr (!clusters) self += kSlots;
      }
      for (int r = 0; r < R; ++r) __builtin_prefetch(row + ahead + r * second + j, 0, hint);
      const int64_t count = tables.task->units - j;
      if constexpr (R == 1) {
        write(row + j, found[0], count);
      } else {
        if (second) write(row + second + j, interleave<A, 1, 2>(found[0], found[1], Lane()), count);
        write(row + j, interleave<A, 0, 2>(found[0], found[1], Lane()), count);
      }
    }
  }
};

template <Verb verb, bool clusters, typename T>
SF_INLINE void run_far(const Task& task, const Chunk& chunk, T* data,
                       const Partners<Acc<T>>& tables, Acc<T> amount) {
  constexpr int64_t R = kSlotRows<Acc<T>>;
  const int64_t stride = task.outer_stride;
  const FarUnits<verb, clusters, T> units{tables, amount};
  for (int64_t o = chunk.o0; o < chunk.o1; o += R) {
    T* row = data + task.base + o * stride;
    const int64_t second = R == 2 && o + 1 < chunk.o1 ? stride : 0;
    units.interleave_rows(row, second);
    if constexpr (clusters) units.find_means();
    if (task.units <= kFirstLevel) {
      units.template write_rows<3>(row, second, R * stride);
    } else {
      units.template write_rows<2>(row, second, R * stride);
    }
  }
}

template <Verb verb, typename T>
void run_pairs(const Task& task, const Chunk& chunk, T* data, const Partners<Acc<T>>& tables,
               Acc<T> amount) {
  if (tables.near) return run_near<verb, 0>(task, chunk, data, tables, amount);
  run_far<verb, false>(task, chunk, data, tables, amount);
}

template <Verb verb, typename T>
void run_means(const Task& task, const Chunk& chunk, T* data, const Partners<Acc<T>>& tables,
               Acc<T> amount) {
  if (!tables.near) return run_far<verb, true>(task, chunk, data, tables, amount);
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
