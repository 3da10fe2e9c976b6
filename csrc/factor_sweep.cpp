// SPDX-License-Identifier: Apache-2.0
// CPU sweep of product factors: blocks of replicas of equal depth and schedule.
#include "factor_sweep.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "factor_sweep_op.h"
#include "isa.h"
#include "lane_blocks.h"
#include "subnormals.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void advance_factors_f64(const FactorBlock<double>& block,
                                                 std::int64_t steps);
                        void advance_factors_f32(const FactorBlock<float>& block,
                                                 std::int64_t steps);)

namespace {

template <typename T>
using Advance = void (*)(const FactorBlock<T>&, std::int64_t);

// Replicas of equal depth and schedule; the deepest and longest come first.
template <typename T>
Packing pack(const SweepArguments<T>& a) {
  std::vector<std::int64_t> every(static_cast<std::size_t>(a.replicas));
  std::iota(every.begin(), every.end(), std::int64_t{0});
  return Packing(std::move(every), kSweepLanes<T>,
                 [&a](std::int64_t b) { return std::make_pair(-a.depth[b], a.kind[b]); });
}

// Memory and bookkeeping of the block a thread is working on; reused for its next block.
template <typename T>
class Worker {
 public:
  static constexpr std::int64_t kLanes = kSweepLanes<T>;

  Worker(const SweepArguments<T>& a, Advance<T> advance)
      : a_(a),
        progress_(a.progress),
        advance_(advance),
        memory_(a.d * kLanes * (4 + 2 * a.max_depth)) {
    const std::int64_t row = a.d * kLanes;
    T* const memory = memory_.get();
    previous_ = memory + 2 * row;
    T* const factor = memory + 4 * row;
    block_ = {a.gram,
              a.linear,
              a.factored,
              a.group,
              a.d,
              0,
              memory,
              memory + row,
              memory + 3 * row,
              factor,
              factor + row * a.max_depth,
              lr_,
              momentum_,
              decay_,
              nullptr};
  }

  void run(const LaneBlock& lane_block) {
    const auto [members, count] = lane_block;
    const FlushSubnormals flush;
    load(members, count);
    const T* const schedule = a_.schedule + a_.kind[members[0]] * a_.steps;
    std::int64_t done = 0, reported = 0, alive = count;
    SweepStatus ending = SweepStatus::finished;
    while (done < a_.steps && alive > 0) {
      if (progress_.cancelled()) {
        ending = SweepStatus::cancelled;
        break;
      }
      std::memcpy(previous_, block_.weight, sizeof(T) * static_cast<std::size_t>(a_.d * kLanes));
      const std::int64_t chunk = std::min(a_.check_every, a_.steps - done);
      block_.schedule = schedule + done;
      advance_(block_, chunk);
      if (chunk % 2 == 1) std::swap(block_.weight, block_.next);
      done += chunk;
      alive -= retire(members, count, done);
      reported += count * chunk;
      progress_.report(count * chunk);
    }
    for (std::int64_t lane = 0; lane < count; ++lane)
      if (alive_[lane]) store(members[lane], lane, done, ending);
    if (ending != SweepStatus::cancelled) progress_.report(count * a_.steps - reported);
  }

 private:
  void load(const std::int64_t* members, std::int64_t count) {
    const std::int64_t depth = a_.depth[members[0]];
    block_.depth = depth;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      alive_[lane] = lane < count;
      residual_[lane] = std::numeric_limits<T>::infinity();
      // Idle lanes repeat the first replica: ordinary numbers, never looked at.
      const std::int64_t b = members[lane < count ? lane : 0];
      lr_[lane] = a_.lr[b];
      momentum_[lane] = a_.momentum[b];
      decay_[lane] = T(2) * a_.lam[b] / static_cast<T>(depth);
      for (std::int64_t i = 0; i < a_.d; ++i) {
        const std::int64_t used = a_.factored[i] ? depth : 1;
        T weight = T(1);
        for (std::int64_t j = 0; j < depth; ++j) {
          const std::int64_t from = (b * a_.max_depth + j) * a_.d + i;
          const std::int64_t to = (i * depth + j) * kLanes + lane;
          block_.factor[to] = a_.factors[from];
          block_.velocity[to] = a_.velocity[from];
        }
        // The order of multiplication of `product`, so that zero steps change nothing.
        for (std::int64_t j = used - 1; j >= 0; --j)
          weight *= block_.factor[(i * depth + j) * kLanes + lane];
        block_.weight[i * kLanes + lane] = weight;
      }
    }
  }

  // Writes the lanes that diverged or converged at this check and stops looking at them.
  std::int64_t retire(const std::int64_t* members, std::int64_t count, std::int64_t done) {
    T worst[kLanes] = {}, poison[kLanes] = {};
    for (std::int64_t i = 0; i < a_.d; ++i)
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const T w = block_.weight[i * kLanes + lane];
        const T change = std::abs(w - previous_[i * kLanes + lane]);
        worst[lane] = change > worst[lane] ? change : worst[lane];
        poison[lane] += T(0) * w;  // NaN as soon as one weight is not finite
      }
    std::int64_t retired = 0;
    for (std::int64_t lane = 0; lane < count; ++lane) {
      if (!alive_[lane]) continue;
      const bool diverged = std::isnan(poison[lane]);
      residual_[lane] = diverged ? std::numeric_limits<T>::quiet_NaN() : worst[lane];
      if (!diverged && !(worst[lane] < a_.tol)) continue;
      store(members[lane], lane, done, diverged ? SweepStatus::diverged : SweepStatus::converged);
      alive_[lane] = false;
      ++retired;
    }
    return retired;
  }

  void store(std::int64_t b, std::int64_t lane, std::int64_t done, SweepStatus status) {
    a_.steps_used[b] = done;
    a_.residual[b] = residual_[lane];
    a_.status[b] = static_cast<std::int64_t>(status);
    for (std::int64_t i = 0; i < a_.d; ++i) {
      a_.weight[b * a_.d + i] = block_.weight[i * kLanes + lane];
      const std::int64_t used = a_.factored[i] ? block_.depth : 1;
      for (std::int64_t j = 0; j < used; ++j) {
        const std::int64_t to = (b * a_.max_depth + j) * a_.d + i;
        const std::int64_t from = (i * block_.depth + j) * kLanes + lane;
        a_.factors[to] = block_.factor[from];
        a_.velocity[to] = block_.velocity[from];
      }
    }
  }

  const SweepArguments<T>& a_;
  const ProgressCounter progress_;
  const Advance<T> advance_;
  alignas(64) T lr_[kLanes];
  alignas(64) T momentum_[kLanes];
  alignas(64) T decay_[kLanes];
  FactorBlock<T> block_{};
  T* previous_ = nullptr;  // weights at the last check
  T residual_[kLanes];
  bool alive_[kLanes];
  Aligned<T> memory_;
};

template <typename T>
void sweep(const SweepArguments<T>& a, Advance<T> advance) {
  pack(a).run([&] { return Worker<T>(a, advance); });
}

// What the kernel indexes by; on a GPU the kernel clamps instead.
template <typename T>
void check_tables(const SweepArguments<T>& a) {
  bool depths = true, kinds = true, groups = true;
  for (std::int64_t b = 0; b < a.replicas; ++b) {
    depths &= a.depth[b] >= 1 && a.depth[b] <= a.max_depth;
    kinds &= a.kind[b] >= 0 && a.kind[b] < a.kinds;
  }
  for (std::int64_t i = 0; a.group && i < a.d; ++i)
    groups &= a.group[i] == i ||
              (i > 0 && a.group[i] == a.group[i - 1] && a.factored[i] && a.factored[i - 1]);
  require(depths, "factor_sweep: each depth must lie between 1 and the ", a.max_depth,
          " factors given");
  require(kinds, "factor_sweep: kind must name a row of the schedule");
  require(groups,
          "factor_sweep: group must name the first coordinate of each group of neighbours, "
          "all of them factored");
}

void launch_double(const SweepArguments<double>& a, const Tensor& /*like*/) {
  check_tables(a);
  sweep<double>(a, SYMFAST_PICK(advance_factors_f64));
}

void launch_float(const SweepArguments<float>& a, const Tensor& /*like*/) {
  check_tables(a);
  sweep<float>(a, SYMFAST_PICK(advance_factors_f32));
}

SweepResult factor_sweep(const Tensor& gram, const Tensor& linear, const Tensor& factors,
                         const Tensor& velocity, const Tensor& depth, const Tensor& factored,
                         const Tensor& lr, const Tensor& momentum, const Tensor& lam,
                         const Tensor& schedule, const Tensor& kind, const Tensor& group,
                         double tol, std::int64_t check_every, const Tensor& progress) {
  return run_sweep({gram, linear, factors, velocity, depth, factored, lr, momentum, lam, schedule,
                    kind, group, progress, check_every, tol},
                   launch_double, launch_float);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) { m.impl("factor_sweep", TORCH_BOX(&factor_sweep)); }

}  // namespace symfast
