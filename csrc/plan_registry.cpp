// SPDX-License-Identifier: Apache-2.0
#include "plan_registry.h"

#include <pthread.h>

#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>

namespace symfast {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<int64_t, std::shared_ptr<const PlanTables>> plans;
};

// Never destroyed: plans alive at exit would free device memory after torch has shut down.
Registry& registry() {
  static Registry& one = []() -> Registry& {
    static Registry* made = new Registry;
    // a thread may hold the mutex while another forks: the child must not inherit it locked
    pthread_atfork([] { made->mutex.lock(); }, [] { made->mutex.unlock(); },
                   [] { made->mutex.unlock(); });
    return *made;
  }();
  return one;
}

}  // namespace

void keep_plan(int64_t key, std::shared_ptr<const PlanTables> tables) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  if (!all.plans.try_emplace(key, std::move(tables)).second) {
    throw std::runtime_error("symfast: there is a plan under key " + std::to_string(key) +
                             " already; keys are used once");
  }
}

std::shared_ptr<const PlanTables> find_plan(int64_t key) {
  Registry& all = registry();
  {
    const std::lock_guard lock(all.mutex);
    const auto found = all.plans.find(key);
    if (found != all.plans.end()) return found->second;
  }
  throw std::runtime_error("symfast: there is no plan under key " + std::to_string(key) +
                           " on this device: it was dropped, moved or never stored");
}

bool drop_plan(int64_t key) {
  Registry& all = registry();
  std::shared_ptr<const PlanTables> last;  // freed after the lock is: that may call into Python
  const std::lock_guard lock(all.mutex);
  const auto found = all.plans.find(key);
  if (found == all.plans.end()) return false;
  last = std::move(found->second);
  all.plans.erase(found);
  return true;
}

int64_t count_plans() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  return static_cast<int64_t>(all.plans.size());
}

}  // namespace symfast
