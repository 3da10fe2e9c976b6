// SPDX-License-Identifier: Apache-2.0
#include "plan_registry.h"

#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "one_per_process.h"

namespace symfast {
namespace {

struct Plans : std::unordered_map<int64_t, std::shared_ptr<const PlanTables>> {};
using Registry = OnePerProcess<Plans>;

}  // namespace

void keep_plan(int64_t key, std::shared_ptr<const PlanTables> tables) {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  if (!all.value.try_emplace(key, std::move(tables)).second) {
    throw std::runtime_error("symfast: there is a plan under key " + std::to_string(key) +
                             " already; keys are used once");
  }
}

std::shared_ptr<const PlanTables> find_plan(int64_t key) {
  Registry& all = Registry::get();
  {
    const std::lock_guard lock(all.mutex);
    const auto found = all.value.find(key);
    if (found != all.value.end()) return found->second;
  }
  throw std::runtime_error("symfast: there is no plan under key " + std::to_string(key) +
                           " on this device: it was dropped, moved or never stored");
}

bool drop_plan(int64_t key) {
  Registry& all = Registry::get();
  std::shared_ptr<const PlanTables> last;  // freed after the lock is: that may call into Python
  const std::lock_guard lock(all.mutex);
  const auto found = all.value.find(key);
  if (found == all.value.end()) return false;
  last = std::move(found->second);
  all.value.erase(found);
  return true;
}

int64_t count_plans() {
  Registry& all = Registry::get();
  const std::lock_guard lock(all.mutex);
  return static_cast<int64_t>(all.value.size());
}

}  // namespace symfast
