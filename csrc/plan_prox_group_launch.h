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
  int64_t partials;
  double* workspace;  // prox_group_numbers; whatever is in there
  int64_t tag;        // of new_tag
  bool mixed;         // the plan has dense frames and others
};

// Doubles of workspace: what norms need, as many shrinkages as partial sums, and norms of mirrors.
inline int64_t prox_group_numbers(const SumSizes& sizes, int64_t partials, int64_t mirrors) {
  const int64_t sums = workspace_numbers(sizes, partials, false);
  return (sums > 0 ? sums : partials) + partials + mirrors;
}

template <typename T>
class ProxGroup {
 public:
  ProxGroup(const PlanLaunch& call, const ProxGroupLaunch& prox) : call_(call), prox_(prox) {
    const int64_t sums = workspace_numbers(prox.sizes, prox.partials, false);
    shrinkages_ = prox.workspace + (sums > 0 ? sums : prox.partials);
    norms_ = shrinkages_ + prox.partials;
  }

  // One launch; two where blocks that have to meet are more than run at once, or frames are mixed.
  template <FramesOf frames>
  void run() const {
    const auto kernel = plan_prox_group<T, frames>;
    const bool spread = prox_.sizes.several > 0;
    Launch shape{call_.chunk_count, kBlock, call_.dense ? kDenseCache : cache(), call_.stream};
    NormsFrom from = spread ? kTogether : kOwn;
    if (prox_.mixed || (spread && shape.blocks > most_together(kernel, shape))) from = kGiven;
    if (from == kGiven) {
      launch_norms<T>(call_, {prox_.tables, prox_.sizes, norms_, prox_.workspace, prox_.partials,
                              prox_.tag, false, nullptr, true});
    }
    shape.together = from == kTogether;
    launch(kernel, shape, arguments(from));
  }

 private:
  int cache() const {  // norms take the more
    return std::max(kIndexCache, staged_bytes<kNorms, T>(call_.gathered));
  }

  ProxGroupArguments<T> arguments(NormsFrom from) const {
    PlanLaunch call = call_;
    call.partials = prox_.workspace;
    call.amounts = shrinkages_;
    call.amount_index = kPerPartial;
    if (from != kOwn) call.add.sums = norms_;
    if (from == kTogether) {
      call.add.runs = reinterpret_cast<const MirrorRun*>(prox_.tables);
      call.add.places = prox_.tables + prox_.sizes.words - prox_.sizes.parts;
      call.add.root = true;
    }
    const ProxGroupArguments<T> a{plan_arguments<T>(call, cache()),
                                  reinterpret_cast<Accumulate<T>*>(shrinkages_),
                                  prox_.thresholds,
                                  prox_.threshold,
                                  from,
                                  static_cast<int32_t>(prox_.sizes.runs),
                                  static_cast<int32_t>(prox_.sizes.wide)};
    static_assert(sizeof(a) <= 4000, "kernel arguments must fit the smallest limit");
    return a;
  }

  const PlanLaunch& call_;
  const ProxGroupLaunch& prox_;
  double *shrinkages_, *norms_;
};

template <typename T>
void launch_prox_group(const PlanLaunch& call, const ProxGroupLaunch& prox) {
  if (call.chunk_count == 0) return;
  const ProxGroup<T> group(call, prox);
  if (prox.mixed) {
    group.template run<FramesOf::both>();
  } else if (call.dense) {
    group.template run<FramesOf::dense>();
  } else {
    group.template run<FramesOf::index>();
  }
}

}  // namespace symfast
