// SPDX-License-Identifier: Apache-2.0
// Who goes with whom among units that are adjacent in memory: the tables of plan_gather_simd.h,
// made once per task and range of chunks, in the workspace.
#pragma once
#include <type_traits>

#include "plan_index_simd.h"

namespace symfast {
namespace SYMFAST_ISA {

constexpr int kSlots = kVectorBytes / 8;
template <typename A>
constexpr int kSlotRows = 8 / static_cast<int>(sizeof(A));
constexpr int64_t kMostRounds = 8;  // members of a cluster worked on in registers

typedef int64_t Slots __attribute__((vector_size(kVectorBytes)));
template <typename A>
using LaneNumbers = std::conditional_t<sizeof(A) == 8, Slots, Bits32>;
template <typename A>
using NumberOf = std::conditional_t<sizeof(A) == 8, int64_t, uint32_t>;

// As many numbers of a table as V has lanes. Compilers widen by four one at a time: intrinsics.
template <typename V>
SF_INLINE V load_numbers(const uint16_t* p) {
  constexpr bool wide = sizeof(V{}[0]) == 8;
#if defined(__AVX512F__)
  if constexpr (wide) return (V)_mm512_cvtepu16_epi64(_mm_loadu_si128((const __m128i*)p));
  if constexpr (!wide) return (V)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  if constexpr (wide) return (V)_mm256_cvtepu16_epi64(_mm_loadl_epi64((const __m128i*)p));
  if constexpr (!wide) return (V)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#else
  V numbers;
  for (int i = 0; i < (wide ? kSlots : 2 * kSlots); ++i) numbers[i] = p[i];
  return numbers;
#endif
}

template <typename A>
SF_INLINE Vec<A> gather(const A* slots, Slots at) {
#if defined(__AVX512F__)
  return (Vec<A>)_mm512_i64gather_epi64((__m512i)at, slots, 8);
#elif defined(__AVX2__)
  return (Vec<A>)_mm256_i64gather_epi64(reinterpret_cast<const long long*>(slots), (__m256i)at, 8);
#else
  Slots found;
  for (int i = 0; i < kSlots; ++i) __builtin_memcpy(&found[i], slots + at[i] * kSlotRows<A>, 8);
  return (Vec<A>)found;
#endif
}

// Lane l of the result is lane at[l] of v.
template <typename A>
SF_INLINE Vec<A> permute(Vec<A> v, LaneNumbers<A> at) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) return (Vec<A>)_mm512_permutexvar_ps((__m512i)at, (__m512)v);
  if constexpr (sizeof(A) == 8) return (Vec<A>)_mm512_permutexvar_pd((__m512i)at, (__m512d)v);
#elif defined(__clang__)
  Vec<A> found;
  for (int i = 0; i < kLanes<A>; ++i) found[i] = v[at[i]];
  return found;
#else
  return __builtin_shuffle(v, at);
#endif
}

// Which unit goes with which, as tables for one task; `units` is rounded up to whole vectors.
template <typename A>
struct Partners {
  const Task* task = nullptr;  // what the tables are for
  bool near, far, whole;       // ways that work; every unit has a partner
  int64_t units, rounds;       // near clusters: members of the largest, or 2, 4, 8
  A* slots;                    // far: the interleaved rows
  A* means;                    // far clusters: a slot for each, and one for units without a cluster
  A* share;             // clusters: 1 / members; near: of every unit's, far: a slot a cluster
  uint16_t* own;        // pairs: every unit's partner; clusters: its cluster
  uint16_t* member;     // near clusters: (rounds, units); far: (group, its rounds, kSlots)
  uint16_t* rounds_of;  // far clusters: members of the largest of kSlots clusters

  // False: not this way. `scratch` has 16 numbers for every unit and 256 more.
  bool prepare(const PlanCall& call, const Task& made_for, A* scratch) {
    if (task == &made_for) return near || far;
    task = &made_for;
    units = (task->units + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
    slots = scratch;
    share = slots + units * kSlotRows<A>;
    own = reinterpret_cast<uint16_t*>(share + units + kLanes<A>);
    member = own + units;
    const int64_t* pool = call.index + task->pool;
    near = far = task->count * 2 <= task->units;
    if (near) task->kind == kClusters ? find_clusters(pool) : find_pairs(pool);
    return near || far;
  }

 private:
  void find_pairs(const int64_t* words) {
    whole = task->count * 2 == task->units;
    for (int64_t j = 0; j < units; ++j) own[j] = static_cast<uint16_t>(j);
    for (int64_t i = 0; i < task->count; ++i) {
      const auto a = static_cast<uint16_t>(words[i]), b = static_cast<uint16_t>(words[i] >> 32);
      own[a] = b;
      own[b] = a;
      near = near && a / kLanes<A> == b / kLanes<A>;
    }
  }

  void find_clusters(const int64_t* offsets) {
    const int64_t count = task->count, *members = offsets + count + 1;
    whole = offsets[count] == task->units;
    rounds = 0;
    int64_t padded = 0;
    for (int64_t q = 0; q < count; ++q) {
      const int64_t size = offsets[q + 1] - offsets[q];
      for (int64_t i = offsets[q]; i < offsets[q + 1]; ++i) {
        near = near && members[i] / kLanes<A> == members[offsets[q]] / kLanes<A>;
      }
      rounds = size > rounds ? size : rounds;
      if (q % kSlots == 0) padded += kSlots * most_members(offsets, q);
    }
    rounds = rounds <= 2 ? 2 : rounds <= 4 ? 4 : rounds;
    near = near && rounds <= kMostRounds;
    if (near && rounds > 4) rounds = kMostRounds;
    far = padded <= 2 * units;  // of very uneven sizes most lanes would idle
    if (offsets[count] > task->units) near = far = false;
    if (near) {
      lay_out_near(offsets, members);
    } else if (far) {
      lay_out_far(offsets, members);
    }
  }

  int64_t stop_of(int64_t q) const { return q + kSlots < task->count ? q + kSlots : task->count; }

  int64_t most_members(const int64_t* offsets, int64_t first) const {
    int64_t most = 0;
    for (int64_t q = first; q < stop_of(first); ++q) {
      const int64_t size = offsets[q + 1] - offsets[q];
      most = size > most ? size : most;
    }
    return most;
  }

  // Round m of unit j: member m of its cluster, or the first again where there are fewer.
  void lay_out_near(const int64_t* offsets, const int64_t* members) {
    for (int64_t j = 0; j < units; ++j) share[j] = 1;
    for (int64_t m = 0; m < rounds; ++m) {
      uint16_t* row = member + m * units;
      for (int64_t j = 0; j < units; ++j) row[j] = static_cast<uint16_t>(j);
      for (int64_t q = 0; q < task->count; ++q) {
        const int64_t size = offsets[q + 1] - offsets[q];
        for (int64_t i = offsets[q]; i < offsets[q + 1]; ++i) {
          row[members[i]] = static_cast<uint16_t>(members[offsets[q] + (m < size ? m : 0)]);
          share[members[i]] = A(1) / static_cast<A>(size);
        }
      }
    }
  }

  // Groups of kSlots clusters: member 0 of each, member 1 of each, .. the first again where there
  // are fewer, the last cluster again where there are fewer clusters.
  void lay_out_far(const int64_t* offsets, const int64_t* members) {
    means = reinterpret_cast<A*>(member + 2 * units);
    rounds_of = reinterpret_cast<uint16_t*>(means + (task->count + kSlots + 1) * kSlotRows<A>);
    for (int64_t j = 0; j < units; ++j) own[j] = static_cast<uint16_t>(task->count);
    uint16_t* to = member;
    for (int64_t first = 0; first < task->count; first += kSlots) {
      const int64_t most = most_members(offsets, first), last = stop_of(first) - 1;
      rounds_of[first / kSlots] = static_cast<uint16_t>(most);
      for (int64_t m = 0; m < most; ++m) {
        for (int64_t lane = 0; lane < kSlots; ++lane) {
          const int64_t q = first + lane < last ? first + lane : last;
          const int64_t size = offsets[q + 1] - offsets[q];
          *to++ = static_cast<uint16_t>(members[offsets[q] + (m < size ? m : 0)]);
        }
      }
      for (int64_t q = first; q <= last; ++q) {
        const int64_t size = offsets[q + 1] - offsets[q];
        for (int64_t i = offsets[q]; i < offsets[q + 1]; ++i) {
          own[members[i]] = static_cast<uint16_t>(q);
        }
        for (int r = 0; r < kSlotRows<A>; ++r) {
          share[q * kSlotRows<A> + r] = A(1) / static_cast<A>(size);
        }
      }
    }
  }
};

}  // namespace SYMFAST_ISA
}  // namespace symfast
