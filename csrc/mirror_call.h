// SPDX-License-Identifier: Apache-2.0
// One call of a functional mirror verb on the CPU, as plain pointers.
#pragma once
#include "mirror.h"
#include "plan_call.h"

namespace symfast {

struct MirrorCall {
  Number number, frame_number;  // of theta and of O
  Verb verb;
  ProxMode mode;
  const void* theta;    // (groups, rows, d)
  const void* frames;   // (groups, d, k)
  const void* amounts;  // accumulate type, (groups, rows) or one
  bool one_amount;
  void* out;  // (groups, rows, d); (groups, rows, k) for coefficients; (groups, rows) for norms
  int64_t groups, rows, d, k;
  int64_t block;  // rows of one item; items are (group, block of rows)
};

SF_HOST_DEVICE int64_t blocks_per_group(const MirrorCall& call) {
  return (call.rows + call.block - 1) / call.block;
}

// What the rows of A^T lie apart in the workspace: not a power of two, where the first-level cache
// would keep few of them.
SF_HOST_DEVICE int64_t frame_row(const MirrorCall& call) {
  return call.d % 512 == 0 ? call.d + 16 : call.d;
}

// Workspace of one thread, in numbers of the accumulate type: A^T and the coefficients.
SF_HOST_DEVICE int64_t scratch_numbers(const MirrorCall& call) {
  return frame_row(call) * call.k + 4 * call.k + 16;
}

}  // namespace symfast
