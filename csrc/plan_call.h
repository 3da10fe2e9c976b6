// SPDX-License-Identifier: Apache-2.0
// One call of a plan verb on the CPU, as plain pointers: what plan.cpp checked and plan_simd.cpp
// runs.
#pragma once
#include "plan.h"

namespace symfast {

enum class Number : int64_t { f64, f32, bf16, f16 };

struct PlanCall {
  Number number;
  Verb verb;
  void* const* data;  // one pointer per parameter
  const Task* tasks;
  const Chunk* chunks;
  const int64_t* index;
  const void* frames;   // accumulate type
  const void* amounts;  // accumulate type, by `amount_index`; unused if uniform
  double amount;
  AmountIndex amount_index;
  double* partial;  // kNorms
  void* out;        // kCoefficients, accumulate type
  // What happens to a chunk's elements before the verb does, if anything.
  void (*before)(const void* context, const Chunk& chunk);
  const void* context;
};

// Columns a tile of the dense kernel for adjacent columns holds: 4 KB of float, a page, keep the
// hardware's prefetching of one unit going; more coefficients than a few must stay near, too.
SF_HOST_DEVICE int64_t tile_columns(const Task& task) { return task.count <= 16 ? 1024 : 256; }
// What the coefficients of a tile lie apart: not a power of two, see FrameBlock in
// dense_columns_simd.h.
SF_HOST_DEVICE int64_t tile_step(const Task& task) { return tile_columns(task) + 16; }

// Units of adjacent columns whose products are added up by themselves, and then together: threads
// of a step share the segments of a large parameter (update_dense.h). It depends on sizes only, so
// that sums do not on threads.
SF_HOST_DEVICE int64_t segment_units(const Task& task) {
  constexpr int64_t elements = 65536, most = 32, most_coefficients = 16, block = 8;
  const int64_t worth = task.units * task.inner / elements;
  if (task.count > most_coefficients || worth < 2) return task.units > 0 ? task.units : 1;
  const int64_t segments = worth < most ? worth : most;
  const int64_t share = (task.units + segments - 1) / segments;
  const int64_t least = 4 * task.count;  // so that coefficients are few beside the units
  return ((share > least ? share : least) + block - 1) / block * block;
}

// Units up to which rows of adjacent units are transposed: 16 float rows of them are 2 MB.
constexpr int64_t kMostTransposed = 32768;

// Index frames on adjacent units, in many rows, that touch a good part of them.
SF_HOST_DEVICE bool transposes(const Task& task) {
  const bool scattered = task.kind == kRowsScattered || task.kind == kPairsScattered;
  return (scattered || task.kind == kClusters) && task.unit_stride == 1 && task.inner == 1 &&
         task.outer > 1 && task.units <= kMostTransposed && task.count * 8 >= task.units;
}

// Workspace one chunk of a task needs, in numbers of the accumulate type.
SF_HOST_DEVICE int64_t scratch_numbers(const Task& task) {
  if (task.kind == kDense) {
    const int64_t tiles = segment_units(task) < task.units ? 2 : 1;  // all segments', and one's
    return (tiles * task.count + 4) * tile_step(task) + task.units;
  }
  const int64_t members = task.kind == kClusters ? 16 * (task.units + 1) : 0;  // a vector each
  return members + (transposes(task) ? 16 * (task.units + 16) : 0);
}

}  // namespace symfast
