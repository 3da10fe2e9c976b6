// SPDX-License-Identifier: Apache-2.0
// Which elements every chunk of a plan may update before it runs its verb, so that a step and its
// constraint are one walk over memory.
#pragma once
#include <memory>
#include <vector>

#include "plan_tables.h"
#include "update_call.h"

namespace symfast {

// How a plan's parameters are walked in a step.
struct Regions {
  std::vector<int64_t> fused;  // chunks that update their region, then run
  std::vector<Span> plain;     // what no fused chunk updates
  std::vector<int64_t> late;   // chunks that run when all of their parameter is updated
  // Of every parameter: its elements, where it is small and of one fused chunk, whose region then
  // is all of it; else none.
  std::vector<int64_t> whole;
};

// Calls visit(begin, end) for the contiguous pieces of the chunk's region, in elements of its
// parameter; false, and no call, if the chunk has no region of its own. A region holds what the
// verb touches, and where units are adjacent in memory the whole rows.
template <typename Visit>
bool walk_region(const Task& task, const Chunk& chunk, const int64_t* index, const Visit& visit);

// The regions of a plan, worked out when first asked for. Fused chunks never share an element.
std::shared_ptr<const Regions> regions_of(int64_t key,
                                          const std::shared_ptr<const PlanTables>& plan);

// ---- the walk ----

// Calls visit(first unit, units) for the units that mirrors [k0, k1) of an index frame touch.
template <typename Visit>
void walk_units(const Task& task, const Chunk& chunk, const int64_t* pool, const Visit& visit) {
  const bool pairs = task.kind == kPairs || task.kind == kPairsScattered;
  if (task.kind == kRows || task.kind == kPairs) {
    for (int64_t r = chunk.first; r < task.count && pool[4 * r + 3] < chunk.k1; ++r) {
      const int64_t* run = pool + 4 * r;
      const int64_t from = run[3] < chunk.k0 ? chunk.k0 : run[3];
      const int64_t stop = run[3] + run[2] < chunk.k1 ? run[3] + run[2] : chunk.k1;
      visit(run[0] + from - run[3], stop - from);
      if (pairs) visit(run[1] + from - run[3], stop - from);
    }
  } else if (task.kind == kClusters) {
    const int64_t* members = pool + task.count + 1;
    for (int64_t i = pool[chunk.k0]; i < pool[chunk.k1]; ++i) visit(members[i - pool[0]], 1);
  } else {
    for (int64_t i = chunk.k0; i < chunk.k1; ++i) {
      visit(pool[i] & 0xffffffff, 1);
      if (pairs) visit(pool[i] >> 32, 1);
    }
  }
}

// Whether the chunk has all mirrors of its task.
inline bool has_all_mirrors(const Task& task, const Chunk& chunk, const int64_t* pool) {
  if (task.kind == kDense) return true;
  if (chunk.k0 != 0) return false;
  if (task.kind != kRows && task.kind != kPairs) return chunk.k1 == task.count;
  const int64_t* last = pool + 4 * (task.count - 1);
  return task.count == 0 || chunk.k1 == last[3] + last[2];
}

template <typename Visit>
bool walk_region(const Task& task, const Chunk& chunk, const int64_t* index, const Visit& visit) {
  const int64_t* pool = index + task.pool;
  const bool rows = task.unit_stride == 1 && task.inner == 1;
  if (rows ? !has_all_mirrors(task, chunk, pool) : task.inner_stride != 1 && task.inner != 1) {
    return false;
  }
  const int64_t width = chunk.c1 - chunk.c0;
  const bool joined = task.unit_stride == task.inner && width == task.inner;
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    const int64_t base = task.base + o * task.outer_stride;
    const auto units = [&](int64_t unit, int64_t count) {
      const int64_t begin = base + unit * task.unit_stride + chunk.c0;
      if (joined) return visit(begin, begin + count * width);
      for (int64_t i = 0; i < count; ++i) {
        visit(begin + i * task.unit_stride, begin + i * task.unit_stride + width);
      }
    };
    if (rows) {
      visit(base, base + task.units);
    } else if (task.kind == kDense) {
      units(0, task.units);
    } else {
      walk_units(task, chunk, pool, units);
    }
  }
  return true;
}

}  // namespace symfast
