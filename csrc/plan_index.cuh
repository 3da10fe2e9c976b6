// SPDX-License-Identifier: Apache-2.0
// Index frames: rows (sign flips) and pairs (swaps), as runs of neighbouring units or one by one.
#pragma once
#include "plan_work.cuh"

namespace symfast {

// One direction of a box of elements: how data, number of the amount and coefficient advance.
struct Axis {
  int64_t count, step, slot, out;
};

SF_DEVICE void order(Axis& a, Axis& b) {
  const bool swap = b.count > 1 && (a.count == 1 || b.step < a.step);
  if (swap) {
    const Axis t = a;
    a = b;
    b = t;
  }
}

// Walk two axes as one where everything advances evenly across their border.
SF_DEVICE void merge(Axis& fast, Axis& next) {
  if (fast.count * fast.step == next.step && fast.count * fast.slot == next.slot &&
      fast.count * fast.out == next.out) {
    fast.count *= next.count;
    next = {1, 0, 0, 0};
  }
}

// One line of elements (pairs: two) with even steps.
template <typename T>
struct Line {
  T *a, *b;
  int64_t step, slot, slot_step;
  Accumulate<T>* out;
  int64_t out_step;
  Accumulate<T> amount;

  SF_DEVICE void advance(int64_t elements) {
    a += elements * step;
    b += elements * step;
    slot += elements * slot_step;
    out += elements * out_step;
  }
};

// The coefficients of the pack at the head of a line.
template <bool pairs, int V, typename T>
SF_DEVICE void read_out(const Line<T>& line, const Pack<T, V>& a, const Pack<T, V>& b) {
  using A = Accumulate<T>;
  A c[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const A x = widen(a.get(v));
    c[v] = pairs ? (x - widen(b.get(v))) * A(kSqrtHalf) : x;
  }
  store_coefficients<V>(line.out, line.out_step, c);
}

// f on the pack at the head of a line.
template <Verb verb, bool pairs, int V, typename T>
SF_DEVICE void apply(const Work<T>& work, const Line<T>& line, Pack<T, V> a, Pack<T, V> b) {
  using A = Accumulate<T>;
  if constexpr (pairs && verb == kReflect) new_pair<verb>(a, b, line.amount);  // bits, not numbers
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if constexpr (pairs && verb == kReflect) break;
    A amount = line.amount;
    if constexpr (verb == kShrink || verb == kProx) {
      if (line.slot_step != 0) amount = work.amount(line.slot + v * line.slot_step);
    }
    if constexpr (pairs) {
      A x = widen(a.get(v)), y = widen(b.get(v));
      new_pair<verb>(x, y, amount);
      a.set(v, narrow<T>(x));
      b.set(v, narrow<T>(y));
    } else {
      a.set(v, narrow<T>(new_coefficient<verb>(widen(a.get(v)), amount)));
    }
  }
  store_pack<V>(line.a, a);
  if constexpr (pairs) store_pack<V>(line.b, b);
}

template <Verb verb, bool pairs, int V, typename T>
SF_DEVICE void finish(const Work<T>& work, const Line<T>& line, const Pack<T, V>& a,
                      const Pack<T, V>& b) {
  if constexpr (verb == kCoefficients) {
    read_out<pairs, V>(line, a, b);
  } else {
    apply<verb, pairs, V>(work, line, a, b);
  }
}

// `count` packs of a line by a team, several loads in flight.
template <Verb verb, bool pairs, int V, typename T>
SF_DEVICE void walk(const Work<T>& work, Line<T> line, const Team& team, int count) {
  constexpr bool few = (verb == kShrink || verb == kProx) && sizeof(T) < 8;  // registers
  constexpr int kPacks = pairs ? 2 : few ? 3 : 4;
  constexpr int kAhead = V == 4 && sizeof(T) == 2 ? 2 * kPacks : kPacks;  // packs of 8 bytes
  line.advance(team.lane * V);
#pragma unroll 1
  for (int number = team.lane; number < count; number += team.size * kAhead) {
    Pack<T, V> a[kAhead], b[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      if (number + n * team.size >= count) continue;
      a[n] = load_pack<V>(line.a + n * team.size * V * line.step);
      if constexpr (pairs) b[n] = load_pack<V>(line.b + n * team.size * V * line.step);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      if (number + n * team.size < count) finish<verb, pairs, V>(work, line, a[n], b[n]);
      line.advance(team.size * V);
    }
  }
}

template <Verb verb, bool pairs, typename T>
SF_DEVICE void walk_line(const Work<T>& work, Line<T> line, const Team& team, int count) {
  constexpr int V = kColumns<verb, T>;
  const int head = elements_to_boundary(line.a);
  const bool together = !pairs || elements_to_boundary(line.b) == head;
  if (line.step != 1 || !together || count < head + V) {
    walk<verb, pairs, 1>(work, line, team, count);
    return;
  }
  const int packs = (count - head) / V;
#pragma unroll 1
  for (int n = team.lane; n < count - packs * V; n += team.size) {  // both ends
    Line<T> element = line;
    element.advance(n < head ? n : n + packs * V);
    Pack<T, 1> b{};
    if constexpr (pairs) b = load_pack<1>(element.b);
    finish<verb, pairs, 1>(work, element, load_pack<1>(element.a), b);
  }
  line.advance(head);
  line.step = 1;
  walk<verb, pairs, V>(work, line, team, packs);
}

// Elements start + i * fast + j * middle + k * slow. The same for all threads, so it lies in shared
// memory and costs no registers.
template <typename T>
struct Box {
  Axis fast, middle, slow;
  Line<T> start;
};

// The box of a run of units, as far as it belongs to the chunk; empty runs have no elements.
template <Verb verb, typename T>
SF_DEVICE Box<T> box_of(const Work<T>& work, int64_t run) {
  const Task& task = work.task;
  const Chunk& chunk = work.chunk;
  constexpr int64_t kOut = verb == kCoefficients ? 1 : 0;
  constexpr int64_t kSlot = verb == kShrink || verb == kProx ? 1 : 0;
  const int64_t a = work.index(4 * run), b = work.index(4 * run + 1);
  const int64_t length = work.index(4 * run + 2), mirror = work.index(4 * run + 3);
  const int64_t from = mirror < chunk.k0 ? chunk.k0 - mirror : 0;
  const int64_t to = mirror + length > chunk.k1 ? chunk.k1 - mirror : length;
  Axis x{work.inner(), task.inner_stride, 0, kOut * task.out_inner};
  Axis y{to > from ? to - from : 0, task.unit_stride, kSlot * work.slots.per_mirror,
         kOut * task.out_row};
  Axis z{work.outer(), task.outer_stride, kSlot * work.slots.per_outer, kOut * task.out_outer};
  order(x, y);
  order(y, z);
  order(x, y);
  merge(y, z);
  merge(x, y);
  const int64_t slot =
      work.slots.start + (mirror + from) * work.slots.per_mirror + chunk.o0 * work.slots.per_outer;
  return {x,
          y,
          z,
          {work.element(chunk.o0, a + from, chunk.c0), work.element(chunk.o0, b + from, chunk.c0),
           x.step, slot, x.slot, work.output(mirror + from, chunk.o0, chunk.c0), x.out, 0}};
}

// A team per line along the fastest axis.
template <Verb verb, bool pairs, typename T>
SF_DEVICE void walk_box(const Work<T>& work, const Box<T>& box) {
  const int count = static_cast<int>(box.fast.count),
            near_count = static_cast<int>(box.middle.count);
  constexpr int V = kColumns<verb, T>;
  const int each = box.fast.step == 1 ? (count + V - 1) / V : count;
  const Team team = team_of(power_of_two(each, static_cast<int>(blockDim.x)));
  const int lines = near_count * static_cast<int>(box.slow.count);
#pragma unroll 1
  for (int number = team.team; number < lines; number += team.teams) {
    const int far = number / near_count, near = number - far * near_count;
    Line<T> line = box.start;
    const int64_t move = near * box.middle.step + far * box.slow.step;
    line.a += move;
    line.b += move;
    line.slot += near * box.middle.slot + far * box.slow.slot;
    line.out += near * box.middle.out + far * box.slow.out;
    if constexpr (verb == kShrink || verb == kProx) line.amount = work.amount(line.slot);
    walk_line<verb, pairs>(work, line, team, count);
  }
}

template <Verb verb, bool pairs, typename T>
SF_DEVICE void apply_runs(const Work<T>& work) {
  SF_SHARED(Box<T>, box, [1]);
#pragma unroll 1
  for (int64_t run = work.chunk.first; run < work.task.count; ++run) {
    if (work.index(4 * run + 3) >= work.chunk.k1) break;
    __syncthreads();
    if (threadIdx.x == 0) box[0] = box_of<verb>(work, run);
    __syncthreads();
    walk_box<verb, pairs>(work, box[0]);
  }
}

struct UnitPair {
  int64_t a, b;
};

SF_DEVICE UnitPair unit_pair(int64_t word) { return {word & 0xffffffff, word >> 32}; }

// Scattered units: every element looks its unit up, several elements of a thread in flight.
template <Verb verb, bool pairs, typename T>
SF_DEVICE void apply_scattered(const Work<T>& work) {
  constexpr int kAhead = 2;
  const Walk walk(work, work.inner());
  const int threads = static_cast<int>(blockDim.x);
#pragma unroll 1
  for (int first = threadIdx.x; first < walk.items; first += threads * kAhead) {
    Line<T> line[kAhead];
    Pack<T, 1> a[kAhead], b[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      if (first + n * threads >= walk.items) continue;
      const Item item(walk, first + n * threads);
      const int64_t k = work.chunk.k0 + item.k, o = work.chunk.o0 + item.o,
                    c = work.chunk.c0 + item.c;
      const UnitPair unit = unit_pair(work.index(k));
      const int64_t slot = work.slots.start + k * work.slots.per_mirror + o * work.slots.per_outer;
      line[n] = {work.element(o, unit.a, c),
                 work.element(o, unit.b, c),
                 0,
                 slot,
                 0,
                 work.output(k, o, c),
                 0,
                 0};
      a[n] = load_pack<1>(line[n].a);
      if constexpr (pairs) b[n] = load_pack<1>(line[n].b);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      if (first + n * threads >= walk.items) continue;
      if constexpr (verb == kShrink || verb == kProx) line[n].amount = work.amount(line[n].slot);
      finish<verb, pairs, 1>(work, line[n], a[n], b[n]);
    }
  }
}

}  // namespace symfast
