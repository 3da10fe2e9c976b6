// SPDX-License-Identifier: Apache-2.0
// Which norms a chunk contributes to.
#pragma once
#include "plan.h"

namespace symfast {

// The mirrors a chunk touches, one sum of squares each: first, first + step, .. `count` of them.
struct ChunkMirrors {
  int64_t first, count, step;

  // Whether their sums, from `partial` on, lie where the norms of the plan have these mirrors.
  bool in_place(int64_t partial) const {
    return count == 0 || (first == partial && (count == 1 || step == 1));
  }
};
SF_HOST_DEVICE ChunkMirrors chunk_mirrors(const Task& task, const Chunk& chunk) {
  if (task.kind != kDense) return {task.mirror + chunk.k0, chunk.k1 - chunk.k0, 1};
  if (task.mirror_column_step) return {task.mirror, task.count, task.mirror_column_step};
  if (task.mirror_step == 0) return {task.mirror, 1, 1};
  return {task.mirror + chunk.o0 * task.mirror_step, chunk.o1 - chunk.o0, task.mirror_step};
}

// Whether a chunk's mirrors are groups of their own; those of any other chunk are of one group.
SF_HOST_DEVICE bool mirrors_are_groups(const Task& task) { return task.group_step > 0; }

// The group of the n-th of a chunk's mirrors.
SF_HOST_DEVICE int64_t group_of(const Task& task, const Chunk& chunk, int64_t n) {
  return mirrors_are_groups(task) ? task.group + (chunk.o0 + n) * task.group_step : task.group;
}

// The groups of a chunk, of which the sums lie at `place`: where those of its mirrors do, or, for
// the one number that they are added up to, behind all `partials` of the plan.
struct ChunkGroups {
  ChunkMirrors numbers;
  int64_t place;
};
inline ChunkGroups chunk_groups(const Task& task, const Chunk& chunk, int64_t number,
                                int64_t partials) {
  if (!mirrors_are_groups(task)) return {{task.group, 1, 1}, partials + number};
  return {{task.group + chunk.o0 * task.group_step, chunk.o1 - chunk.o0, task.group_step},
          chunk.partial};
}

}  // namespace symfast
