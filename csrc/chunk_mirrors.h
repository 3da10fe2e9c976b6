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
inline ChunkMirrors chunk_mirrors(const Task& task, const Chunk& chunk) {
  if (task.kind != kDense) return {task.mirror + chunk.k0, chunk.k1 - chunk.k0, 1};
  if (task.mirror_column_step) return {task.mirror, task.count, task.mirror_column_step};
  if (task.mirror_step == 0) return {task.mirror, 1, 1};
  return {task.mirror + chunk.o0 * task.mirror_step, chunk.o1 - chunk.o0, task.mirror_step};
}

}  // namespace symfast
