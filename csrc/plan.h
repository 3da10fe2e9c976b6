// SPDX-License-Identifier: Apache-2.0
// The tables of a plan, and the arithmetic of one coefficient. Python builds the tables as int64
// tensors on the CPU and hands them over once, to plan_store; it checks them (plan_check.h), keeps
// its own copy (plan_tables.h), and the CPU and CUDA kernels read that.
//
// A unit matrix U is a list of views; every view walks one parameter as
//   element(o, i, c) = data[tensor][base + o * outer_stride + i * unit_stride + c * inner_stride]
// with unit i in [0, units) and columns (o, c). A task is one view under one frame:
//   kRows, kPairs     index frames. Index pool holds `count` rows of 4: (a, b, length, mirror):
//   units
//                     a..a+length (paired with b..b+length), first mirror number within the task.
//   kRowsScattered, kPairsScattered: `count` words a | b << 32, mirror number = position.
//   kClusters         index pool holds `count` + 1 offsets (from the first of them) to member
//   lists;
//                     cluster q has members [offset q, offset q + 1) and starts at coefficient row
//                     offset q - offset 0 - q.
//   kDense            frame pool holds A^T, (count, units) row-major, advancing by frame_step per
//   o.
// A chunk is the part of a task one thread (or thread block) does: mirrors [k0, k1) (dense:
// unused), outer [o0, o1), inner [c0, c1). Chunks never depend on the number of threads.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define SF_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SF_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace symfast {

enum Verb : int64_t {
  kReflect = 0,
  kProject = 1,
  kShrink = 2,
  kProx = 3,
  kCoefficients = 4,
  kNorms = 5,
  kDistances = 6,   // inside kernels: norms of the functional verbs, a root per row of theta
  kShrinkFound = 7  // inside kernels: shrink by amounts that the same launch has found
};
SF_HOST_DEVICE constexpr bool shrinks(Verb verb) { return verb == kShrink || verb == kShrinkFound; }
SF_HOST_DEVICE constexpr bool takes_amounts(Verb verb) { return shrinks(verb) || verb == kProx; }
enum Kind : int64_t {
  kRows = 0,
  kPairs = 1,
  kClusters = 2,
  kDense = 3,
  kRowsScattered = 4,
  kPairsScattered = 5
};
// What the number of an amount is: one for all, one per group, one per mirror.
enum AmountIndex : int64_t { kUniform = 0, kPerGroup = 1, kPerMirror = 2 };

struct Task {
  int64_t kind, tensor, base;
  int64_t outer, outer_stride, units, unit_stride, inner, inner_stride;
  int64_t pool, count;          // start in the index pool or the frame pool; see above
  int64_t frame_step;           // dense: frame elements between consecutive o, 0 = shared
  int64_t frame_row;            // dense: frame elements between rows of A^T, at least units
  int64_t mirror, mirror_step;  // first mirror number of the task, mirrors per o
  int64_t mirror_column_step;   // dense: 1 = a mirror per column, 0 = one for all columns
  int64_t group, group_step;    // group number, groups per o
  int64_t out, out_outer, out_inner, out_row;  // where coefficient (row, o, c) goes
};
constexpr int64_t kTaskFields = sizeof(Task) / sizeof(int64_t);

struct Chunk {
  int64_t task, first;  // first: the run that holds mirror k0 (kRows, kPairs)
  int64_t k0, k1, o0, o1, c0, c1;
  int64_t partial;  // kNorms: where this chunk's sums of squares start
};
constexpr int64_t kChunkFields = sizeof(Chunk) / sizeof(int64_t);

// Units that lie side by side and are looked up one by one: a CUDA block takes whole rows of them
// through shared memory, for which it needs room.
SF_HOST_DEVICE bool is_gathered(const Task& task) {
  const bool listed =
      task.kind == kClusters || task.kind == kRowsScattered || task.kind == kPairsScattered;
  return listed && task.unit_stride == 1 && task.inner == 1;
}

// ---- the arithmetic of one coefficient ----
// V is a number or a SIMD vector of numbers of type A.

// soft(x, t) = sign(x) max(|x| - t, 0), t >= 0. x - x instead of 0: NaN stays NaN.
template <typename V, typename A>
SF_HOST_DEVICE V soft_threshold(V x, A t) {
  return x > t ? x - t : (x < -t ? x + t : x - x);
}

// f(c) for one coefficient: what the verb turns c = (A^T U) into.
template <Verb verb, typename V, typename A>
SF_HOST_DEVICE V new_coefficient(V c, A amount) {
  if constexpr (verb == kReflect) return -c;
  if constexpr (verb == kProject) return c - c;  // not 0: NaN and infinity must show
  if constexpr (shrinks(verb)) return c * (A(1) - amount);
  return soft_threshold(c, amount);
}

// Swap of units a and b: reflect exchanges bits, project writes one average into both.
constexpr double kSqrtHalf = 0.70710678118654752440;
template <Verb verb, typename V, typename A>
SF_HOST_DEVICE void new_pair(V& a, V& b, A amount) {
  if constexpr (verb == kReflect) {
    const V t = a;
    a = b;
    b = t;
  } else if constexpr (verb == kProject) {
    a = b = (a + b) * A(0.5);
  } else {
    const V mean = (a + b) * A(0.5);
    V half = (a - b) * A(0.5);
    if constexpr (shrinks(verb)) half = half * (A(1) - amount);
    if constexpr (verb == kProx) half = soft_threshold(half, amount * A(kSqrtHalf));
    a = mean + half;
    b = mean - half;
  }
}

}  // namespace symfast
