// SPDX-License-Identifier: Apache-2.0
// Plan verbs on a device as plain functions of pointers, sizes and a stream; no torch.
#pragma once
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
  AmountIndex amount_index;
  void* out;         // kCoefficients
  double* partials;  // kNorms
  const std::vector<void*>& data;
  int64_t* pointers;  // device memory for data.size() addresses, needed beyond kTensors
  void* stream;
};

// Bytes of dynamic shared memory: members of clusters, or a dense block's sums and frames.
constexpr int kIndexCache = 16 * 1024;
constexpr int kDenseCache = kDenseBytes + 24 * 1024;

template <Verb verb, typename T>
void launch_plan(const PlanLaunch& call) {
  using A = Accumulate<T>;
  if (call.chunk_count == 0) return;
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
  a.cache_bytes = call.dense ? kDenseCache : kIndexCache;
  if (call.data.size() > kTensors) {
    std::vector<int64_t> addresses;
    for (void* p : call.data) addresses.push_back(reinterpret_cast<int64_t>(p));
    send_table(addresses.data(), static_cast<int64_t>(addresses.size()), call.pointers,
               call.stream);
    a.tensors.more = call.pointers;
  } else {
    for (std::size_t n = 0; n < call.data.size(); ++n) a.tensors.data[n] = call.data[n];
  }
  const Launch shape{call.chunk_count, kBlock, a.cache_bytes, call.stream};
  if (call.dense) {
    launch(plan_kernel<T, verb, true>, shape, a);
  } else {
    launch(plan_kernel<T, verb, false>, shape, a);
  }
}

// Sums of squares per mirror. One launch where the partial sums are the norms (PlanNeeds of
// plan_check.h), else a second adds up those at call.partials.
template <typename T>
void launch_norms(PlanLaunch call, int64_t mirrors, bool in_place, double* sums) {
  if (in_place) call.partials = sums;
  launch_plan<kNorms, T>(call);
  if (in_place) return;
  const NormArguments a{call.tasks, call.chunks, call.partials, sums, call.chunk_count, mirrors};
  launch(sum_partials<>, {(mirrors + kBlock - 1) / kBlock, kBlock, 0, call.stream}, a);
}

}  // namespace symfast
