// SPDX-License-Identifier: Apache-2.0
// Boxes of elements with even steps, and the runs of units that are such boxes.
#pragma once
#include "plan_work.cuh"

namespace symfast {

// One direction of a box of elements: how data, number of the amount and coefficient advance.
struct Axis {
  int64_t count, step, slot, out;
};

SF_DEVICE void exchange(Axis& a, Axis& b) {
  const Axis t = a;
  a = b;
  b = t;
}

SF_DEVICE void order(Axis& a, Axis& b) {
  if (b.count > 1 && (a.count == 1 || b.step < a.step)) exchange(a, b);
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
  constexpr int64_t kSlot = takes_amounts(verb) ? 1 : 0;
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
  if (x.out != 1 && z.out == 1 && z.count > 1) exchange(y, z);  // see is_turned
  const int64_t slot =
      work.slots.start + (mirror + from) * work.slots.per_mirror + chunk.o0 * work.slots.per_outer;
  return {x,
          y,
          z,
          {work.element(chunk.o0, a + from, chunk.c0), work.element(chunk.o0, b + from, chunk.c0),
           x.step, slot, x.slot, work.output(mirror + from, chunk.o0, chunk.c0), x.out, 0}};
}

struct UnitPair {
  int64_t a, b;
};

SF_DEVICE UnitPair unit_pair(int64_t word) { return {word & 0xffffffff, word >> 32}; }

}  // namespace symfast
