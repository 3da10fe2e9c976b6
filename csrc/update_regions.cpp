// SPDX-License-Identifier: Apache-2.0
#include "update_regions.h"

#include <mutex>
#include <unordered_map>

#include "one_per_process.h"

namespace symfast {
namespace {

constexpr int64_t kWorthASpan = 32;  // elements a piece has on average where walking it pays
constexpr int64_t kSmall = 4096;     // elements of a parameter that stay near, with their states

// What the chunks of one parameter claim.
struct Claim {
  std::vector<bool> taken;
  int64_t elements = 0, pieces = 0, chunks = 0;
  bool fusible = true, dense = false;
};

std::vector<Claim> empty_claims(const PlanTables& plan) {
  std::vector<Claim> claims;
  for (std::size_t at = 0; at < plan.layout.size(); at += 1 + 2 * plan.layout[at]) {
    int64_t count = 1;
    for (int64_t d = 1; d <= plan.layout[at]; ++d) count *= plan.layout[at + d];
    claims.emplace_back().taken.resize(static_cast<std::size_t>(count));
  }
  return claims;
}

// Notes the chunk's region, and whether another chunk has some of it.
void claim(const PlanTables& plan, const Chunk& chunk, Claim& claims) {
  const auto size = static_cast<int64_t>(claims.taken.size());
  const Task& task = plan.task_rows()[chunk.task];
  const bool whole = walk_region(task, chunk, plan.index_pool(), [&](int64_t begin, int64_t end) {
    if (!claims.fusible || begin == end) return;
    claims.fusible = begin >= 0 && end <= size;  // a parameter with gaps: not flat memory
    for (int64_t i = begin; claims.fusible && i < end; ++i) {
      claims.fusible = !claims.taken[i];
      claims.taken[i] = true;
    }
    claims.elements += end - begin;
    ++claims.pieces;
  });
  claims.fusible = claims.fusible && whole;
  claims.dense = claims.dense || task.kind == kDense;
  ++claims.chunks;
}

void add_untaken(const Claim& claims, int64_t tensor, std::vector<Span>& spans) {
  const auto size = static_cast<int64_t>(claims.taken.size());
  for (int64_t begin = 0; begin < size;) {
    const bool taken = claims.fusible && claims.taken[begin];
    int64_t end = begin + 1;
    while (end < size && (claims.fusible && claims.taken[end]) == taken) ++end;
    if (!taken) spans.push_back({tensor, begin, end});
    begin = end;
  }
}

std::shared_ptr<const Regions> find_regions(const PlanTables& plan) {
  std::vector<Claim> claims = empty_claims(plan);
  for (int64_t c = 0; c < plan.chunk_count; ++c) {
    const Chunk& chunk = plan.chunk_rows()[c];
    claim(plan, chunk, claims[plan.task_rows()[chunk.task].tensor]);
  }
  auto found = std::make_shared<Regions>();
  found->whole.resize(claims.size());
  for (std::size_t t = 0; t < claims.size(); ++t) {
    Claim& own = claims[t];
    const auto size = static_cast<int64_t>(own.taken.size());
    // the kernel of dense columns updates its region itself
    const bool all = !own.dense || own.elements == size;
    if (own.fusible && own.chunks == 1 && size <= kSmall && all) {
      found->whole[t] = size;
      continue;
    }
    own.fusible = own.fusible && own.elements >= kWorthASpan * own.pieces;
    add_untaken(own, static_cast<int64_t>(t), found->plain);
  }
  for (int64_t c = 0; c < plan.chunk_count; ++c) {
    const int64_t tensor = plan.task_rows()[plan.chunk_rows()[c].task].tensor;
    (claims[tensor].fusible ? found->fused : found->late).push_back(c);
  }
  return found;
}

struct Kept {
  std::weak_ptr<const PlanTables> plan;
  std::shared_ptr<const Regions> regions;
};
using KeptRegions = OnePerProcess<std::unordered_map<int64_t, Kept>>;

}  // namespace

std::shared_ptr<const Regions> regions_of(int64_t key,
                                          const std::shared_ptr<const PlanTables>& plan) {
  KeptRegions& kept = KeptRegions::get();
  const std::lock_guard lock(kept.mutex);
  const auto found = kept.value.find(key);
  if (found != kept.value.end() && found->second.plan.lock() == plan) return found->second.regions;
  std::erase_if(kept.value, [](const auto& item) { return item.second.plan.expired(); });
  auto made = find_regions(*plan);
  kept.value[key] = {plan, made};
  return made;
}

}  // namespace symfast
