// SPDX-License-Identifier: Apache-2.0
// What plan_store makes of a plan's tables: checked once, copied so that nobody else can write
// them, never changed after. A verb finds them by key (plan_registry.h) and checks only what may
// have changed since: the parameters.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "plan_check.h"
#include "plan_registry.h"
#include "plan_sums.h"

namespace symfast {

struct PlanTables {
  std::vector<int64_t> layout;          // (dims, sizes.., strides..) of every parameter
  Tensor tasks, chunks, index, frames;  // on the plan's device; the first three are our copies
  int32_t device_type, device_index;    // of the plan
  ScalarType accumulate;                // of the frames
  int64_t chunk_count, mirrors, output, groups;  // sizes: of chunks, norms, coefficients, norms
  PlanNeeds needs;
  int64_t grain;  // chunks worth a thread
  // On a GPU: SumTables, where norms need them.
  struct Sums {
    SumSizes sizes;
    std::optional<Tensor> words;
  };
  Sums by_mirror, by_group;

  const Task* task_rows() const { return static_cast<const Task*>(tasks.const_data_ptr()); }
  const Chunk* chunk_rows() const { return static_cast<const Chunk*>(chunks.const_data_ptr()); }
  const int64_t* index_pool() const { return static_cast<const int64_t*>(index.const_data_ptr()); }
};

// The operator: checks the tables on the host, keeps them under the key on the device of frames.
void plan_store(int64_t plan, Tensor layout, Tensor tasks, Tensor chunks, Tensor index,
                Tensor frames, int64_t mirrors, int64_t numel, int64_t groups);

// Addresses of a call's parameters. A few need no memory of their own.
class Addresses {
 public:
  explicit Addresses(std::size_t count) : count_(count) {
    if (count > kFew) many_.resize(count);
  }
  void** data() { return count_ > kFew ? many_.data() : few_; }

 private:
  static constexpr std::size_t kFew = 8;
  std::size_t count_;
  void* few_[kFew];
  std::vector<void*> many_;
};

// Refuses parameters that have other sizes or strides than when the plan was made, that are not of
// one type which goes with its frames, or not on its device. Fills in their addresses.
Number check_parameters(const PlanTables& plan, const std::vector<Tensor>& tensors,
                        void** addresses);

// A verb that changes parameters.
inline void require_verb(int64_t verb) {
  require(verb >= kReflect && verb <= kProx, "verb ", verb,
          " does not change parameters; it must be 0 to 3");
}

// The sums of other launches that norms go on from are as many as theirs. Returns their address.
const double* check_before(const PlanTables& plan, const std::optional<Tensor>& before,
                           int64_t per);

// There are as many thresholds, by group, as the plan needs, contiguous after this. Returns their
// address.
const double* check_thresholds(const PlanTables& plan, std::optional<Tensor>& thresholds);

// There are as many amounts as the plan needs, contiguous after this.
// Returns their address.
const void* check_amounts(const PlanTables& plan, std::optional<Tensor>& amounts,
                          int64_t amount_index);

}  // namespace symfast
