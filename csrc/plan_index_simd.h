// SPDX-License-Identifier: Apache-2.0
// Index frames for plan_simd.cpp: single units (rows) and pairs of units, never a dense A.
#pragma once
#include "ahead_simd.h"
#include "plan_call.h"
#include "simd.h"

namespace symfast {
namespace SYMFAST_ISA {

// What a task's amounts are: one number, or numbers by group or by mirror.
template <typename A>
struct Amounts {
  const A* values;
  A uniform;
  AmountIndex index;
  SF_INLINE Amounts of(const PlanCall& call) {
    return {static_cast<const A*>(call.amounts), static_cast<A>(call.amount), call.amount_index};
  }
  A at(int64_t group, int64_t mirror) const {
    return index == kUniform ? uniform : values[index == kPerGroup ? group : mirror];
  }
};

// What is asked for early of a row that lies alone: the hardware stops at every end of a page.
constexpr int64_t kRowAhead = 2048;

// f on n adjacent numbers, or on n adjacent pairs. alone: what is near them is not next.
template <Verb verb, bool pairs, bool alone = false, typename T>
SF_INLINE void update_span(T* a, T* b, int64_t n, Acc<T> amount) {
  constexpr int64_t W = kLanes<Acc<T>>;
  const auto some = [&](int64_t i, int64_t count) {
    Vec<Acc<T>> u = load_some(a + i, count);
    if constexpr (pairs) {
      Vec<Acc<T>> w = load_some(b + i, count);
      new_pair<verb>(u, w, amount);
      store_some(b + i, w, count);
    } else {
      u = new_coefficient<verb>(u, amount);
    }
    store_some(a + i, u, count);
  };
  const auto whole = [&](int64_t i) {
    Vec<Acc<T>> u = load(a + i);
    if constexpr (pairs) {
      Vec<Acc<T>> w = load(b + i);
      new_pair<verb>(u, w, amount);
      store(b + i, w);
    } else {
      u = new_coefficient<verb>(u, amount);
    }
    store(a + i, u);
  };
  int64_t i = 0;
  if constexpr (alone) {
    constexpr int64_t ahead = kRowAhead / sizeof(T);
    for (; i + ahead + W <= n; i += W) {
      ask_for(a + i + ahead);
      if constexpr (pairs) ask_for(b + i + ahead);
      whole(i);
    }
  }
  for (; i + W <= n; i += W) whole(i);
  if (i < n) some(i, n - i);
}

template <Verb verb, bool pairs, typename T>
SF_INLINE void update_one(T* a, T* b, Acc<T> amount) {
  if constexpr (pairs && verb == kReflect) {  // bits, not numbers
    const T t = *a;
    *a = *b;
    *b = t;
  } else if constexpr (pairs) {
    Acc<T> u = widen(*a), w = widen(*b);
    new_pair<verb>(u, w, amount);
    put(a, u);
    put(b, w);
  } else {
    put(a, new_coefficient<verb>(Acc<T>(widen(*a)), amount));
  }
}

template <bool pairs, typename T>
SF_INLINE Acc<T> coefficient(const T* a, const T* b) {
  if constexpr (pairs) return (widen(*a) - widen(*b)) * Acc<T>(kSqrtHalf);
  return widen(*a);
}

// Sum of squares of n coefficients a stride apart; float lanes are emptied into double regularly.
template <bool pairs, typename T>
SF_INLINE double square_sum(const T* a, const T* b, int64_t n, int64_t stride) {
  using A = Acc<T>;
  constexpr int64_t W = kLanes<A>, kEmpty = 64 * W;
  double total = 0;
  int64_t i = 0;
  if (stride == 1) {
    while (i + W <= n) {
      Vec<A> sums = {};
      const int64_t stop = i + kEmpty < n ? i + kEmpty : n;
      for (; i + W <= stop; i += W) {
        Vec<A> c = load(a + i);
        if constexpr (pairs) c = (c - load(b + i)) * A(kSqrtHalf);
        sums += c * c;
      }
      total += static_cast<double>(sum(sums));
    }
  }
  for (; i < n; ++i) {
    const double c = coefficient<pairs>(a + i * stride, b + i * stride);
    total += c * c;
  }
  return total;
}

// `count` units in a row (a, a + unit_stride, ..; b likewise), mirrors counting up from `mirror`.
template <Verb verb, bool pairs, typename T>
struct Segment {
  using A = Acc<T>;
  const PlanCall& call;
  const Task& task;
  const Chunk& chunk;
  const Amounts<A> amounts;

  void run(T* base, int64_t o, int64_t a, int64_t b, int64_t mirror, int64_t count) const {
    T* u = base + a * task.unit_stride + chunk.c0 * task.inner_stride;
    T* w = base + b * task.unit_stride + chunk.c0 * task.inner_stride;
    if constexpr (verb == kNorms) {
      norms(u, w, mirror, count);
    } else if constexpr (verb == kCoefficients) {
      coefficients(u, w, o, mirror, count);
    } else {
      update(u, w, mirror, count);
    }
  }

  void update(T* u, T* w, int64_t mirror, int64_t count) const {
    const int64_t width = chunk.c1 - chunk.c0, first = task.mirror + mirror;
    const bool one_block = width == task.inner && (width == 1 || task.inner_stride == 1) &&
                           task.unit_stride == task.inner;
    const bool uniform = amounts.index != kPerMirror;
    if (one_block && (uniform || width == 1)) {
      if (uniform) {
        const A amount = amounts.at(task.group, 0);
        if (count == 1) return update_span<verb, pairs, pairs>(u, w, width, amount);
        return update_span<verb, pairs>(u, w, count * width, amount);
      }
      for (int64_t i = 0; i < count; ++i) {
        update_one<verb, pairs>(u + i, w + i, amounts.values[first + i]);
      }
      return;
    }
    for (int64_t i = 0; i < count; ++i, u += task.unit_stride, w += task.unit_stride) {
      const A amount = amounts.at(task.group, first + i);
      if (task.inner_stride == 1 || width == 1) {
        update_span<verb, pairs>(u, w, width, amount);
      } else {
        for (int64_t c = 0; c < width; ++c) {
          update_one<verb, pairs>(u + c * task.inner_stride, w + c * task.inner_stride, amount);
        }
      }
    }
  }

  // The first numbers of a run's two rows, while the run before it is worked on.
  void ask_for_rows(const T* base, const int64_t* run) const {
    const int64_t bytes = (chunk.c1 - chunk.c0) * static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < 2 && task.inner_stride == 1; ++i) {
      const T* row = base + run[i] * task.unit_stride + chunk.c0;
      ask_for(row, bytes < kRowAhead ? bytes : kRowAhead);
    }
  }

  void norms(const T* u, const T* w, int64_t mirror, int64_t count) const {
    double* partial = call.partial + chunk.partial + mirror - chunk.k0;
    const int64_t width = chunk.c1 - chunk.c0, stride = task.unit_stride;
    if (width == 1 && stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const double c = coefficient<pairs>(u + i, w + i);
        partial[i] += c * c;
      }
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      partial[i] += square_sum<pairs>(u + i * stride, w + i * stride, width, task.inner_stride);
    }
  }

  void coefficients(const T* u, const T* w, int64_t o, int64_t mirror, int64_t count) const {
    A* out = static_cast<A*>(call.out) + task.out + o * task.out_outer + chunk.c0 * task.out_inner;
    for (int64_t i = 0; i < count; ++i, u += task.unit_stride, w += task.unit_stride) {
      A* row = out + (mirror + i) * task.out_row;
      for (int64_t c = 0; c < chunk.c1 - chunk.c0; ++c) {
        row[c * task.out_inner] =
            coefficient<pairs>(u + c * task.inner_stride, w + c * task.inner_stride);
      }
    }
  }
};

// Frames stored as runs of units.
template <Verb verb, bool pairs, typename T>
void run_runs(const PlanCall& call, const Task& task, const Chunk& chunk, T* data) {
  const Segment<verb, pairs, T> segment{call, task, chunk, Amounts<Acc<T>>::of(call)};
  const int64_t* runs = call.index + task.pool;
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    T* base = data + task.base + o * task.outer_stride;
    for (int64_t r = chunk.first; r < task.count && runs[4 * r + 3] < chunk.k1; ++r) {
      const int64_t* run = runs + 4 * r;
      const int64_t from = run[3] < chunk.k0 ? chunk.k0 : run[3];
      const int64_t stop = run[3] + run[2] < chunk.k1 ? run[3] + run[2] : chunk.k1;
      const int64_t skip = from - run[3];
      if (pairs && stop - from == 1 && r + 1 < task.count) segment.ask_for_rows(base, run + 4);
      segment.run(base, o, run[0] + skip, run[1] + skip, from, stop - from);
    }
  }
}

// Scattered single units in rows of adjacent units: whole rows in vectors, the untouched units
// blended back. `chosen` has room for one number per unit.
template <Verb verb, typename T>
void run_masked(const PlanCall& call, const Task& task, const Chunk& chunk, T* data,
                Acc<T>* chosen) {
  using A = Acc<T>;
  constexpr int64_t W = kLanes<A>;
  const A amount = Amounts<A>::of(call).at(task.group, 0);
  const int64_t* words = call.index + task.pool;
  for (int64_t j = 0; j < task.units; ++j) chosen[j] = 0;
  for (int64_t i = chunk.k0; i < chunk.k1; ++i) chosen[words[i] & 0xffffffff] = 1;
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    T* row = data + task.base + o * task.outer_stride;
    int64_t j = 0;
    for (; j + W <= task.units; j += W) {
      const Vec<A> u = load(row + j);
      store(row + j, load(chosen + j) != A(0) ? new_coefficient<verb>(u, amount) : u);
    }
    for (; j < task.units; ++j) {
      if (chosen[j] != A(0)) put(row + j, new_coefficient<verb>(A(widen(row[j])), amount));
    }
  }
}

// Frames stored unit by unit, units (nearly) adjacent in memory: one tight loop per row.
template <Verb verb, bool pairs, typename T>
void run_scattered(const PlanCall& call, const Task& task, const Chunk& chunk, T* data) {
  const Segment<verb, pairs, T> segment{call, task, chunk, Amounts<Acc<T>>::of(call)};
  const int64_t* words = call.index + task.pool;
  constexpr bool changes = verb != kNorms && verb != kCoefficients;
  const bool tight = changes && task.inner == 1 && segment.amounts.index != kPerMirror;
  const Acc<T> amount = tight ? segment.amounts.at(task.group, 0) : Acc<T>(0);
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    T* base = data + task.base + o * task.outer_stride;
    if constexpr (changes) {
      if (tight) {
        for (int64_t i = chunk.k0; i < chunk.k1; ++i) {
          T* a = base + (words[i] & 0xffffffff) * task.unit_stride;
          T* b = base + (words[i] >> 32) * task.unit_stride;
          update_one<verb, pairs>(a, b, amount);
        }
        continue;
      }
    }
    for (int64_t i = chunk.k0; i < chunk.k1; ++i) {
      segment.run(base, o, words[i] & 0xffffffff, words[i] >> 32, i, 1);
    }
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
