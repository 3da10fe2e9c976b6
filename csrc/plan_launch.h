// SPDX-License-Identifier: Apache-2.0
// Plan verbs on a device as plain functions of pointers, sizes and a stream; no torch.
#pragma once
#include <algorithm>
#include <atomic>
#include <random>
#include <vector>

#include "device_table.h"
#include "plan.cuh"

namespace symfast {

// One verb over one table. Device pointers, but `data` (host): the tensors' device pointers.
struct PlanLaunch {
  const int64_t *tasks, *chunks, *index;
  int64_t chunk_count;
  const void* frames;  // accumulate type
  bool dense;          // there are frames
  const void* amounts;
  double amount;
  int64_t amount_index;  // an AmountIndex, or kPerPartial
  void* out;             // kCoefficients
  double* partials;      // kNorms
  const std::vector<void*>& data;
  int64_t* pointers;  // device memory for data.size() addresses, needed beyond kTensors
  void* stream;
  SumArguments add{};    // kNorms; launch_norms fills it in
  int64_t gathered = 0;  // PlanNeeds.gathered
};

// The widest rows of gathered units among the chunks of tables on the host.
inline int64_t gathered_units(const Task* tasks, const Chunk* chunks, int64_t chunk_count) {
  int64_t units = 0;
  for (int64_t c = 0; c < chunk_count; ++c) {
    const Task& task = tasks[chunks[c].task];
    if (is_gathered(task)) units = std::max(units, task.units);
  }
  return units;
}

// Bytes of dynamic shared memory: members of clusters, or a dense block's sums and frames. Gathered
// units may want more than the first: staged_bytes.
constexpr int kIndexCache = 16 * 1024;
constexpr int kDenseCache = kDenseBytes + 24 * 1024;
static_assert(kTurnedBytes<Float16> <= kDenseCache && kStagedBytes <= kDenseCache);

// A kernel's arguments; addresses of many tensors are sent to the device by launches of their own.
template <typename T>
PlanArguments<T> plan_arguments(const PlanLaunch& call, int index_cache) {
  using A = Accumulate<T>;
  PlanArguments<T> a{};
  static_assert(sizeof(a) <= 4000, "kernel arguments must fit the smallest limit");
  a.tasks = call.tasks;
  a.chunks = call.chunks;
  a.index = call.index;
  a.frames = static_cast<const A*>(call.frames);
  a.amounts = static_cast<const A*>(call.amounts);
  a.amount = static_cast<A>(call.amount);
  a.amount_index = call.amount_index;
  a.out = static_cast<A*>(call.out);
  a.partials = call.partials;
  a.add = call.add;
  a.cache_bytes = call.dense ? kDenseCache : index_cache;
  if (call.data.size() > kTensors) {
    std::vector<int64_t> addresses;
    for (void* p : call.data) addresses.push_back(reinterpret_cast<int64_t>(p));
    send_table(addresses.data(), static_cast<int64_t>(addresses.size()), call.pointers,
               call.stream);
    a.tensors.more = call.pointers;
  } else {
    for (std::size_t n = 0; n < call.data.size(); ++n) a.tensors.data[n] = call.data[n];
  }
  return a;
}

template <Verb verb, typename T>
void launch_plan(const PlanLaunch& call) {
  if (call.chunk_count == 0) return;
  constexpr int kIndex = verb == kCoefficients ? kTurnedBytes<T> : kIndexCache;
  const int cache = std::max(kIndex, staged_bytes<verb, T>(call.gathered));
  const PlanArguments<T> a = plan_arguments<T>(call, cache);
  const Launch shape{call.chunk_count, kBlock, a.cache_bytes, call.stream};
  if (call.dense) {
    launch(plan_kernel<T, verb, true>, shape, a);
  } else {
    launch(plan_kernel<T, verb, false>, shape, a);
  }
}

// A number that no other call of this process has, nor, but for one chance in 2^64, memory that was
// used for something else.
inline int64_t new_tag() {
  static const uint64_t key = [] {
    std::random_device source;
    return uint64_t{source()} << 32 | source();
  }();
  static std::atomic<uint64_t> calls{0};
  for (;;) {
    uint64_t x = key + 0x9e3779b97f4a7c15u * ++calls;  // splitmix64, one to one
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    if (x) return static_cast<int64_t>(x);
  }
}

// Where norms go, and what adding them up takes. Device pointers.
struct NormsLaunch {
  const int64_t* tables;  // SumTables.words
  SumSizes sizes;         // of no words: the partial sums of chunks are the norms
  double* sums;
  double* workspace;  // workspace_numbers; whatever is in there
  int64_t partials;
  int64_t tag;  // of new_tag
  bool by_group;
  const double* before;
  bool root;
};

// Doubles of workspace: partial sums, a sum of every chunk where groups are asked for, and flags.
inline int64_t workspace_numbers(const SumSizes& sizes, int64_t partials, bool by_group) {
  return sizes.words > 0 ? partials + (by_group ? sizes.chunks : 0) + sizes.parts : 0;
}

// What the blocks of a launch need where tables say which of them share norms.
inline SumArguments sum_arguments(const NormsLaunch& norms) {
  const SumSizes& sizes = norms.sizes;
  const int64_t *chunks = norms.tables + 4 * sizes.runs, *meetings = chunks + 4 * sizes.chunks;
  double* const behind = norms.workspace + norms.partials;  // the partial sums
  return {reinterpret_cast<const MirrorRun*>(norms.tables),
          reinterpret_cast<const ChunkMeetings*>(chunks),
          reinterpret_cast<const Meeting*>(meetings),
          norms.tables + sizes.words - sizes.parts,
          reinterpret_cast<int64_t*>(behind + (norms.by_group ? sizes.chunks : 0)),
          norms.tag,
          norms.sums,
          norms.before,
          norms.root,
          norms.by_group ? behind : nullptr};
}

// Sums of squares per mirror or per group, or their roots, in one launch.
template <typename T>
void launch_norms(PlanLaunch call, const NormsLaunch& norms) {
  call.partials = norms.sums;
  call.add.before = norms.before;
  call.add.root = norms.root;
  if (norms.sizes.words > 0) {
    call.partials = norms.workspace;
    call.add = sum_arguments(norms);
  }
  launch_plan<kNorms, T>(call);
}

}  // namespace symfast
