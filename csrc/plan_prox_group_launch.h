// SPDX-License-Identifier: Apache-2.0
// Group prox of a plan on a device as a plain function of pointers, sizes and a stream; no torch.
#pragma once
#include "plan_launch.h"
#include "plan_prox_group.cuh"

namespace symfast {

// Thresholds, and what finding norms takes. Device pointers.
struct ProxGroupLaunch {
  const double* thresholds;  // by group, or null
  double threshold;          // where they are null
  const int64_t* tables;     // SumTables.words of mirrors
  SumSizes sizes;            // of nothing where partial sums are the norms
  int64_t partials, mirrors;
  double* workspace;  // prox_group_numbers; whatever is in there
  int64_t tag;        // of new_tag
};

// Where the doubles of the workspace begin that are not partial sums and flags.
struct ProxGroupPlaces {
  int64_t shrinkages, norms, counters, end;

  ProxGroupPlaces(const SumSizes& sizes, int64_t partials, int64_t mirrors) {
    const int64_t sums = workspace_numbers(sizes, partials, false);
    shrinkages = sums > 0 ? sums : partials;
    norms = shrinkages + partials;
    counters = norms + mirrors;
    end = counters + 2;
  }
};

inline int64_t prox_group_numbers(const SumSizes& sizes, int64_t partials, int64_t mirrors) {
  return ProxGroupPlaces(sizes, partials, mirrors).end;
}

template <typename T>
ProxGroupArguments<T> prox_group_arguments(PlanLaunch call, const ProxGroupLaunch& prox,
                                           int index_cache) {
  const ProxGroupPlaces at(prox.sizes, prox.partials, prox.mirrors);
  const bool waits = prox.sizes.several > 0;
  double* const workspace = prox.workspace;
  call.partials = workspace;
  call.amounts = workspace + at.shrinkages;
  call.amount_index = kPerPartial;
  if (waits) {
    call.add = sum_arguments({prox.tables, prox.sizes, workspace + at.norms, workspace,
                              prox.partials, prox.tag, false, nullptr, true});
  }
  return {plan_arguments<T>(call, index_cache),
          reinterpret_cast<Accumulate<T>*>(workspace + at.shrinkages), prox.thresholds,
          prox.threshold, waits ? reinterpret_cast<int64_t*>(workspace + at.counters) : nullptr};
}

// One launch, wherever the parts of mirrors lie.
template <typename T>
void launch_prox_group(const PlanLaunch& call, const ProxGroupLaunch& prox) {
  if (call.chunk_count == 0) return;
  static_assert(sizeof(ProxGroupArguments<T>) <= 4000, "kernel arguments: the smallest limit");
  const int cache = std::max(kIndexCache, staged_bytes<kNorms, T>(call.gathered));
  const ProxGroupArguments<T> a = prox_group_arguments<T>(call, prox, cache);
  const int64_t blocks = call.chunk_count * (a.counters ? 2 : 1);
  const Launch shape{blocks, kBlock, a.plan.cache_bytes, call.stream};
  if (call.dense) {
    launch(plan_prox_group<T, true>, shape, a);
  } else {
    launch(plan_prox_group<T, false>, shape, a);
  }
}

}  // namespace symfast
