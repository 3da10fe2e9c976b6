// SPDX-License-Identifier: Apache-2.0
// Index frames: rows (sign flips) and pairs (swaps), as runs of neighbouring units or one by one.
#pragma once
#include "plan_turned.cuh"

namespace symfast {

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

// f on the pack at the head of a line, in registers.
template <Verb verb, bool pairs, int V, typename T>
SF_DEVICE void change(const Work<T>& work, const Line<T>& line, Pack<T, V>& a, Pack<T, V>& b) {
  using A = Accumulate<T>;
  if constexpr (pairs && verb == kReflect) new_pair<verb>(a, b, line.amount);  // bits, not numbers
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if constexpr (pairs && verb == kReflect) break;
    A amount = line.amount;
    if constexpr (takes_amounts(verb)) {
      if (line.slot_step != 0) amount = work.template amount<verb>(line.slot + v * line.slot_step);
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
}

template <Verb verb, bool pairs, int V, typename T>
SF_DEVICE void finish(const Work<T>& work, const Line<T>& line, Pack<T, V> a, Pack<T, V> b) {
  if constexpr (verb == kCoefficients) {
    read_out<pairs, V>(line, a, b);
  } else {
    change<verb, pairs>(work, line, a, b);
    store_pack<V>(line.a, a);
    if constexpr (pairs) store_pack<V>(line.b, b);
  }
}

// `count` packs of a line by a team, several loads in flight.
template <Verb verb, bool pairs, int V, typename T>
SF_DEVICE void walk(const Work<T>& work, Line<T> line, const Team& team, int count) {
  constexpr bool few = takes_amounts(verb) && sizeof(T) < 8;  // registers
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

// A team per line along the fastest axis.
template <Verb verb, bool pairs, typename T>
SF_DEVICE void walk_box(const Work<T>& work, const Box<T>& box) {
  if constexpr (verb == kCoefficients) {
    if (is_turned(box)) return turn_box<pairs>(box);
  }
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
    if constexpr (takes_amounts(verb)) line.amount = work.template amount<verb>(line.slot);
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

// Scattered units: every element looks its unit up, several elements of a thread in flight.
template <Verb verb, bool pairs, typename T>
SF_DEVICE void apply_scattered(const Work<T>& work) {
  if constexpr (verb == kCoefficients) {
    if (is_turned(work)) return turn_scattered<pairs>(work);
  }
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
      line[n] = {work.element(o, unit.a, c),
                 work.element(o, unit.b, c),
                 0,
                 work.slot(k, o),
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
      if constexpr (takes_amounts(verb)) line[n].amount = work.template amount<verb>(line[n].slot);
      finish<verb, pairs, 1>(work, line[n], a[n], b[n]);
    }
  }
}

}  // namespace symfast
