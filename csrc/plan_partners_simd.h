// SPDX-License-Identifier: Apache-2.0
// Who goes with whom among units that are adjacent in memory: the tables of plan_gather_simd.h,
// made once per task and range of chunks, in the workspace.
#pragma once
#include <type_traits>

#include "plan_index_simd.h"
#include "plan_slots_simd.h"

namespace symfast {
namespace SYMFAST_ISA {

constexpr int64_t kMostRounds = 8;  // members of a cluster worked on in registers

template <typename A>
using LaneNumbers = std::conditional_t<sizeof(A) == 8, Bits64, Bits32>;
template <typename A>
using NumberOf = std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>;

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

template <typename A>
using WideSlots = Slots<A, 16>;
template <typename A>
using NarrowSlots = Slots<A, kVectorBytes == 64 ? 8 : 16>;
constexpr int64_t kFirstLevel = 1024;  // units whose wide slots and rows the first level holds

// Which unit goes with which, as tables for one task; `units` is rounded up to whole vectors.
template <typename A>
struct Partners {
  using Wide = WideSlots<A>;

  const Task* task = nullptr;  // what the tables are for
  bool near, far, whole;       // ways that work; every unit has a partner
  bool wide;                   // far: slots of 16 bytes; clusters have no others
  int64_t units, rounds;       // near clusters: members of the largest, or 2, 4, 8
  A* slots;                    // far: the rows, turned
  A* share;                    // 1 / members; near: of every unit's cluster, far: of every mean's
  A* means;                    // far clusters: a slot for each, and one for units without a cluster
  uint16_t* own;               // near pairs: every unit's partner; far: the slot of its partner or
                               // mean, as `word` says, in the order of slots
  uint16_t* member;            // near clusters: (rounds, units); far: (group, its rounds, kCount)
  uint16_t* lone;              // far: 1 for the 8 bytes of units without a partner
  uint16_t *rounds_of, *rounds_end;  // far clusters: members of the largest of kCount clusters

  // False: not this way. `scratch` has 16 numbers for every unit and 256 more.
  bool prepare(const PlanCall& call, const Task& made_for, A* scratch) {
    if (task == &made_for) return near || far;
    task = &made_for;
    units = (task->units + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
    slots = scratch;
    share = slots + units * Wide::kRows;
    means = share + (units / 2 + 2 * Wide::kCount) * Wide::kRows;
    own = reinterpret_cast<uint16_t*>(means + (units / 2 + 2 * Wide::kCount) * Wide::kRows);
    lone = own + units;
    rounds_of = lone + 2 * units;
    member = rounds_of + units;
    const int64_t* pool = call.index + task->pool;
    near = far = task->count * 2 <= task->units;
    if (near) task->kind == kClusters ? find_clusters(pool) : find_pairs(pool);
    return near || far;
  }

 private:
  void find_pairs(const int64_t* words) {
    whole = task->count * 2 == task->units;
    wide = units <= kFirstLevel;
    for (int64_t j = 0; j < units; ++j) own[j] = static_cast<uint16_t>(j);
    for (int64_t i = 0; i < task->count; ++i) {
      const auto a = static_cast<uint16_t>(words[i]), b = static_cast<uint16_t>(words[i] >> 32);
      own[a] = b;
      own[b] = a;
      near = near && a / kLanes<A> == b / kLanes<A>;
    }
    if (near) return;
    wide ? lay_out_pairs<Wide>() : lay_out_pairs<NarrowSlots<A>>();
  }

  template <typename Kind>
  void lay_out_pairs() {
    uint16_t* partner = member;
    for (int64_t j = 0; j < units; ++j) {
      partner[Kind::slot_of(j)] = Kind::word(Kind::slot_of(own[j]));
      mark<Kind>(j, own[j] == j);
    }
    own = partner;
  }

  template <typename Kind>
  void mark(int64_t unit, bool alone) {
    uint16_t* first = lone + Kind::word(Kind::slot_of(unit));
    for (int i = 0; i < Kind::word(1); ++i) first[i] = alone;
  }

  void find_clusters(const int64_t* offsets) {
    const int64_t count = task->count, *members = offsets + count + 1;
    whole = offsets[count] == task->units;
    wide = true;
    rounds = 0;
    int64_t padded = 0;
    for (int64_t q = 0; q < count; ++q) {
      const int64_t size = offsets[q + 1] - offsets[q];
      for (int64_t i = offsets[q]; i < offsets[q + 1]; ++i) {
        near = near && members[i] / kLanes<A> == members[offsets[q]] / kLanes<A>;
      }
      rounds = size > rounds ? size : rounds;
      if (q % Wide::kCount == 0) padded += Wide::kCount * most_members(offsets, q);
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

  int64_t stop_of(int64_t q) const {
    return q + Wide::kCount < task->count ? q + Wide::kCount : task->count;
  }

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

  // Groups of kCount clusters: member 0 of each, member 1 of each, .. the first again where there
  // are fewer, the last cluster again where there are fewer clusters.
  void lay_out_far(const int64_t* offsets, const int64_t* members) {
    for (int64_t j = 0; j < units; ++j) {
      own[Wide::slot_of(j)] = Wide::word(task->count);
      mark<Wide>(j, true);
    }
    uint16_t* to = member;
    rounds_end = rounds_of;
    for (int64_t first = 0; first < task->count; first += Wide::kCount) {
      const int64_t most = most_members(offsets, first), last = stop_of(first) - 1;
      *rounds_end++ = static_cast<uint16_t>(most);
      for (int64_t m = 0; m < most; ++m) {
        for (int64_t lane = 0; lane < Wide::kCount; ++lane) {
          const int64_t q = first + lane < last ? first + lane : last;
          const int64_t size = offsets[q + 1] - offsets[q];
          *to++ = Wide::word(Wide::slot_of(members[offsets[q] + (m < size ? m : 0)]));
        }
      }
      for (int64_t q = first; q <= last; ++q) share_mean(q, offsets, members);
    }
  }

  // The members of cluster q read its mean, which takes 1 / their number of each.
  void share_mean(int64_t q, const int64_t* offsets, const int64_t* members) {
    for (int64_t i = offsets[q]; i < offsets[q + 1]; ++i) {
      own[Wide::slot_of(members[i])] = Wide::word(q);
      mark<Wide>(members[i], false);
    }
    for (int r = 0; r < Wide::kRows; ++r) {
      share[q * Wide::kRows + r] = A(1) / static_cast<A>(offsets[q + 1] - offsets[q]);
    }
  }
};

}  // namespace SYMFAST_ISA
}  // namespace symfast
