// SPDX-License-Identifier: Apache-2.0
// The real kernels and launchers for one element type, EMULATED_TYPE, compiled for the emulator:
// one C function per family of verbs.
#include "mirror_launch.h"
#include "plan_launch.h"
#include "sum_tables.h"

namespace symfast {
namespace {

using T = EMULATED_TYPE;

// Calls run with the verb as a constant; EMULATED_VERBS has a bit for each that is wanted at all.
template <int verb = 0, typename Run>
void for_verb(int64_t wanted, const Run& run) {
  if constexpr (EMULATED_VERBS >> verb & 1) {
    if (wanted == verb) run(std::integral_constant<Verb, static_cast<Verb>(verb)>{});
  }
  if constexpr (verb < kNorms) for_verb<verb + 1>(wanted, run);
}

}  // namespace

extern "C" {

struct EmulatedPlan {
  const int64_t *tasks, *chunks, *index;
  int64_t chunk_count;
  const void* frames;
  int64_t dense;
  const void* amounts;
  double amount;
  int64_t amount_index;
  void* out;
  double* partials;  // kNorms: `workspace` of them, and as many flags
  void** data;
  int64_t data_count;
  int64_t* pointers;
  int64_t mirrors;
  double* sums;
  int64_t workspace, tag;
  int64_t by_group;  // `mirrors` is the number of groups
  const double* before;
  int64_t root;
};

void emulated_norms(const PlanLaunch& call, const EmulatedPlan& p) {
  const bool by_group = p.by_group != 0;
  const int64_t partials = p.workspace - (by_group ? p.chunk_count : 0);
  const SumTables tables =
      sum_tables(p.tasks, p.chunks, p.chunk_count, p.mirrors, by_group, partials);
  launch_norms<T>(call, {tables.words.data(), tables.sizes, p.sums, p.partials, partials, p.tag,
                         by_group, p.before, p.root != 0});
}

void emulated_plan(const EmulatedPlan* p, int64_t verb) {
  const std::vector<void*> data(p->data, p->data + p->data_count);
  PlanLaunch call{p->tasks,      p->chunks,  p->index,    p->chunk_count,  p->frames,
                  p->dense != 0, p->amounts, p->amount,   p->amount_index, p->out,
                  p->partials,   data,       p->pointers, nullptr};
  call.gathered = gathered_units(reinterpret_cast<const Task*>(p->tasks),
                                 reinterpret_cast<const Chunk*>(p->chunks), p->chunk_count);
  for_verb(verb, [&](auto v) {
    constexpr Verb chosen = decltype(v)::value;
    if constexpr (chosen == kNorms) {
      emulated_norms(call, *p);
    } else {
      launch_plan<chosen, T>(call);
    }
  });
}

// `wide`: O is float beside a half-precision theta.
void emulated_mirror(const MirrorLaunch* call, int64_t wide, int64_t verb) {
  for_verb(verb, [&](auto v) {
    constexpr Verb chosen = decltype(v)::value;
    if constexpr (sizeof(T) == 2) {
      if (wide) return launch_mirror<chosen, T, float>(*call);
    }
    launch_mirror<chosen, T, T>(*call);
  });
}

int64_t emulated_stage_bytes(int64_t d, int64_t k, int64_t accumulate_bytes, int64_t most) {
  return stage_bytes_for(d, k, accumulate_bytes, static_cast<int>(most));
}
}

}  // namespace symfast
