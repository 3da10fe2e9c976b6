// SPDX-License-Identifier: Apache-2.0
// Runs chunks of a plan; compiled once per instruction set.
#include "plan_cluster_simd.h"
#include "plan_dense_simd.h"
#include "plan_gather_simd.h"
#include "plan_index_simd.h"
#include "plan_transpose_simd.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

template <Verb verb, typename T>
void run_index(const PlanCall& call, const Task& task, const Chunk& chunk, T* data,
               Acc<T>* scratch) {
  switch (task.kind) {
    case kRows:
      return run_runs<verb, false>(call, task, chunk, data);
    case kPairs:
      return run_runs<verb, true>(call, task, chunk, data);
    case kClusters:
      return run_clusters<verb>(call, task, chunk, data, scratch);
    case kRowsScattered:
      return run_scattered<verb, false>(call, task, chunk, data);
    default:
      return run_scattered<verb, true>(call, task, chunk, data);
  }
}

template <Verb verb, typename T>
void run_chunk(const PlanCall& call, const Chunk& chunk, Partners<Acc<T>>& partners,
               Acc<T>* scratch) {
  const Task& task = call.tasks[chunk.task];
  T* data = static_cast<T*>(call.data[task.tensor]);
  if (task.kind == kDense) return run_dense<verb>(call, task, chunk, data, scratch);
  if (!transposes(task)) return run_index<verb>(call, task, chunk, data, scratch);
  if constexpr (verb != kNorms && verb != kCoefficients) {
    if (task.kind == kRowsScattered && call.amount_index != kPerMirror) {
      return run_masked<verb>(call, task, chunk, data, scratch);
    }
  }
  if (run_gathered<verb>(call, task, chunk, data, partners, scratch)) return;
  Acc<T>* members = scratch + 16 * (task.units + 16);
  run_transposed<verb>(task, chunk, data, scratch,
                       [&](const Task& block, const Chunk& part, Acc<T>* rows) {
                         run_index<verb>(call, block, part, rows, members);
                       });
}

template <Verb verb, typename T>
void run_range(const PlanCall& call, int64_t begin, int64_t end, void* scratch) {
  Partners<Acc<T>> partners;  // chunks are sorted by task: tables are made once for each
  for (int64_t i = begin; i < end; ++i) {
    if (call.before) call.before(call.context, call.chunks[i]);
    run_chunk<verb, T>(call, call.chunks[i], partners, static_cast<Acc<T>*>(scratch));
  }
}

template <typename T>
void run_verb(const PlanCall& call, int64_t begin, int64_t end, void* scratch) {
  switch (call.verb) {
    case kReflect:
      return run_range<kReflect, T>(call, begin, end, scratch);
    case kProject:
      return run_range<kProject, T>(call, begin, end, scratch);
    case kShrink:
      return run_range<kShrink, T>(call, begin, end, scratch);
    case kProx:
      return run_range<kProx, T>(call, begin, end, scratch);
    case kCoefficients:
      return run_range<kCoefficients, T>(call, begin, end, scratch);
    case kNorms:
      return run_range<kNorms, T>(call, begin, end, scratch);
    case kDistances:  // these two are of CUDA kernels alone
    case kShrinkFound:
      return;
  }
}

}  // namespace

void plan_run(const PlanCall& call, int64_t begin, int64_t end, void* scratch) {
  switch (call.number) {
    case Number::f64:
      return run_verb<double>(call, begin, end, scratch);
    case Number::f32:
      return run_verb<float>(call, begin, end, scratch);
    case Number::bf16:
      return run_verb<bf16>(call, begin, end, scratch);
    case Number::f16:
      return run_verb<f16>(call, begin, end, scratch);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
