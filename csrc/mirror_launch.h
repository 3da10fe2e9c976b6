// SPDX-License-Identifier: Apache-2.0
// Functional mirror verbs on a device as plain functions of pointers, sizes and a stream; no torch.
#pragma once
#include "launch.h"
#include "mirror.cuh"

namespace symfast {

// One verb. Device pointers, types as in mirror.cuh. k = 0 writes nothing.
struct MirrorLaunch {
  const void *theta, *frames, *amounts;
  void* out;
  int64_t groups, rows, d, k;
  bool transposed, one_amount, group;
  int stage_bytes;  // from stage_bytes_for
  void* stream;
};

// Shared memory for frames: many small ones, or one large one, or 0 if not even one fits.
inline int stage_bytes_for(int64_t d, int64_t k, int64_t accumulate_bytes, int most_shared) {
  constexpr int64_t kUsual = 24 * 1024;
  const int64_t one = (d + 16 / accumulate_bytes) * k * accumulate_bytes;
  if (one <= kUsual) return kUsual;
  return one + kDenseBytes + 1024 <= most_shared ? static_cast<int>((one + 15) / 16 * 16) : 0;
}

// Elements of theta a block takes: enough to pay for staging a frame, few enough to fill the
// device.
constexpr int64_t kBlockElements = 16384;
// Rows, or groups of one row, whose norms or single coefficients fill sectors: 8 of them.
inline int64_t whole_sectors(int64_t rows) { return rows < 8 ? rows : rows / 8 * 8; }

template <Verb verb, typename T, typename F>
void launch_mirror(const MirrorLaunch& call) {
  using A = Accumulate<T>;
  if (call.groups == 0 || call.rows == 0 || call.d == 0 || call.k == 0) return;
  MirrorArguments<T, F> a{};
  a.theta = static_cast<const T*>(call.theta);
  a.frames = static_cast<const F*>(call.frames);
  a.transposed = call.transposed;
  a.amounts = static_cast<const A*>(call.amounts);
  a.one_amount = call.one_amount;
  a.group = call.group;
  if constexpr (verb == kNorms) {
    a.norms = static_cast<A*>(call.out);
  } else {
    a.out = static_cast<T*>(call.out);
  }
  a.groups = call.groups;
  a.rows = call.rows;
  a.d = static_cast<int>(call.d);
  a.k = static_cast<int>(call.k);
  a.stage_bytes = call.stage_bytes;
  const int64_t rows = whole_sectors(kBlockElements / call.d + 1);
  a.rows_each = static_cast<int>(rows < call.rows ? rows : call.rows);
  const int64_t groups =
      whole_sectors(kBlockElements / (a.rows_each * call.d + call.d * call.k) + 1);
  a.groups_each = static_cast<int>(a.rows_each < call.rows ? 1 : groups);
  a.blocks_each = static_cast<int>((call.rows + a.rows_each - 1) / a.rows_each);
  const int64_t bundles = (call.groups + a.groups_each - 1) / a.groups_each;
  launch(mirror_kernel<T, F, verb>,
         {bundles * a.blocks_each, kBlock, kDenseBytes + a.stage_bytes, call.stream}, a);
}

}  // namespace symfast
