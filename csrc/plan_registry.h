// SPDX-License-Identifier: Apache-2.0
// Plans of this process by their key. Free of torch, for module.cpp.
#pragma once
#include <cstdint>
#include <memory>

namespace symfast {

struct PlanTables;  // plan_tables.h

// Throws std::runtime_error if there is a plan under the key already.
void keep_plan(int64_t key, std::shared_ptr<const PlanTables> tables);

// Throws std::runtime_error if there is none. The caller's share outlives drop_plan.
std::shared_ptr<const PlanTables> find_plan(int64_t key);

// Whether there was one.
bool drop_plan(int64_t key);

int64_t count_plans();

}  // namespace symfast
