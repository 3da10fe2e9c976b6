// SPDX-License-Identifier: Apache-2.0
// CPU sweep: replicas of equal depth are packed into blocks of lanes, blocks are taken from a queue
// by torch's threads. Every lane runs the same instructions whoever its neighbours are, so a
// replica alone gives the same bits as in a sweep, on any number of threads.
#include "factor_sweep.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "factor_sweep_op.h"
#include "isa.h"
#include "subnormals.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(void advance_factors_f64(const FactorBlock<double>& block,
                                                 std::int64_t steps);
                        void advance_factors_f32(const FactorBlock<float>& block,
                                                 std::int64_t steps);)

namespace {

template <typename T>
using Advance = void (*)(const FactorBlock<T>&, std::int64_t);

// Replicas ordered by depth, cut into blocks of equal depth; the deepest and longest come first.
struct Block {
  std::int64_t first, count, depth;  // a range of `order`
};

struct Packing {
  std::vector<std::int64_t> order;
  std::vector<Block> blocks;
};

Packing pack(const std::int64_t* depth, std::int64_t replicas, std::int64_t lanes) {
  Packing packing;
  packing.order.resize(static_cast<std::size_t>(replicas));
  std::iota(packing.order.begin(), packing.order.end(), std::int64_t{0});
  std::stable_sort(packing.order.begin(), packing.order.end(),
                   [depth](std::int64_t a, std::int64_t b) { return depth[a] > depth[b]; });
  const auto depth_at = [&](std::int64_t i) {
    return depth[packing.order[static_cast<std::size_t>(i)]];
  };
  for (std::int64_t first = 0; first < replicas;) {
    std::int64_t last = first + 1;
    while (last < replicas && last - first < lanes && depth_at(last) == depth_at(first)) ++last;
    packing.blocks.push_back({first, last - first, depth_at(first)});
    first = last;
  }
  return packing;
}

// Memory and bookkeeping of the block a thread is working on; reused for its next block.
template <typename T>
class Worker {
 public:
  static constexpr std::int64_t kLanes = kSweepLanes<T>;

  explicit Worker(const SweepArguments<T>& a)
      : a_(a), block_{a.gram,  a.linear, a.factored, a.d, 0,         nullptr,
                      nullptr, nullptr,  nullptr,    lr_, momentum_, decay_} {
    const std::int64_t row = a.d * kLanes;
    memory_.resize(static_cast<std::size_t>(row * (3 + 2 * a.max_depth) + kLanes));
    void* start = memory_.data();
    std::size_t space = memory_.size() * sizeof(T);
    T* const aligned = static_cast<T*>(std::align(64, sizeof(T), start, space));
    block_.weight = aligned;
    block_.next = aligned + row;
    previous_ = aligned + 2 * row;
    block_.factor = aligned + 3 * row;
    block_.velocity = block_.factor + row * a.max_depth;
  }

  void run(const std::int64_t* members, std::int64_t count, std::int64_t depth,
           Advance<T> advance) {
    const FlushSubnormals flush;
    load(members, count, depth);
    std::int64_t done = 0, reported = 0, alive = count;
    SweepStatus ending = SweepStatus::finished;
    while (done < a_.steps && alive > 0) {
      if (cancelled()) {
        ending = SweepStatus::cancelled;
        break;
      }
      std::memcpy(previous_, block_.weight, sizeof(T) * static_cast<std::size_t>(a_.d * kLanes));
      const std::int64_t chunk = std::min(a_.check_every, a_.steps - done);
      advance(block_, chunk);
      if (chunk % 2 == 1) std::swap(block_.weight, block_.next);
      done += chunk;
      alive -= retire(members, count, done);
      reported += count * chunk;
      report(count * chunk);
    }
    for (std::int64_t lane = 0; lane < count; ++lane)
      if (alive_[lane]) store(members[lane], lane, done, ending);
    if (ending != SweepStatus::cancelled) report(count * a_.steps - reported);
  }

 private:
  void load(const std::int64_t* members, std::int64_t count, std::int64_t depth) {
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

  bool cancelled() const {
    return std::atomic_ref<std::int64_t>(a_.progress[1]).load(std::memory_order_relaxed) != 0;
  }
  void report(std::int64_t amount) const {
    std::atomic_ref<std::int64_t>(a_.progress[0]).fetch_add(amount, std::memory_order_relaxed);
  }

  const SweepArguments<T>& a_;
  alignas(64) T lr_[kLanes];
  alignas(64) T momentum_[kLanes];
  alignas(64) T decay_[kLanes];
  FactorBlock<T> block_;
  T* previous_ = nullptr;  // weights at the last check
  T residual_[kLanes];
  bool alive_[kLanes];
  std::vector<T> memory_;
};

template <typename T>
void sweep(const SweepArguments<T>& a, Advance<T> advance) {
  const Packing packing = pack(a.depth, a.replicas, kSweepLanes<T>);
  const auto blocks = static_cast<std::int64_t>(packing.blocks.size());
  const auto threads = std::min<std::int64_t>(torch::stable::get_num_threads(), blocks);
  std::atomic<std::int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    Worker<T> worker(a);
    for (std::int64_t share = begin; share < end; ++share)
      for (std::int64_t i; (i = next.fetch_add(1)) < blocks;) {
        const Block& block = packing.blocks[static_cast<std::size_t>(i)];
        worker.run(packing.order.data() + block.first, block.count, block.depth, advance);
      }
  });
}

template <typename T>
void check_depths(const SweepArguments<T>& a) {
  const auto [least, most] = std::minmax_element(a.depth, a.depth + a.replicas);
  require(*least >= 1 && *most <= a.max_depth,
          "factor_sweep: each depth must lie between 1 and the ", a.max_depth, " factors given");
}

void launch_double(const SweepArguments<double>& a, const Tensor& /*like*/) {
  check_depths(a);
  sweep<double>(a, SYMFAST_PICK(advance_factors_f64));
}

void launch_float(const SweepArguments<float>& a, const Tensor& /*like*/) {
  check_depths(a);
  sweep<float>(a, SYMFAST_PICK(advance_factors_f32));
}

SweepResult factor_sweep(const Tensor& gram, const Tensor& linear, const Tensor& factors,
                         const Tensor& velocity, const Tensor& depth, const Tensor& factored,
                         const Tensor& lr, const Tensor& momentum, const Tensor& lam,
                         std::int64_t steps, double tol, std::int64_t check_every,
                         const Tensor& progress) {
  return run_sweep({gram, linear, factors, velocity, depth, factored, lr, momentum, lam, progress,
                    steps, check_every, tol},
                   launch_double, launch_float);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) { m.impl("factor_sweep", TORCH_BOX(&factor_sweep)); }

}  // namespace symfast
