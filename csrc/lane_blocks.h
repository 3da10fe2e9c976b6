// SPDX-License-Identifier: Apache-2.0
// How the CPU sweeps share work: replicas of equal key are packed into blocks of SIMD lanes, blocks
// are taken from a queue by torch's threads. Every lane runs the same instructions whoever its
// neighbours are, so a replica alone gives the same bits as in a sweep, on any number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "parallel.h"
#include "tensor.h"

namespace symfast {

// Numbers at an address that is a multiple of a vector.
template <typename T>
class Aligned {
 public:
  explicit Aligned(std::int64_t count) : memory_(static_cast<std::size_t>(count) + 64 / sizeof(T)) {
    void* start = memory_.data();
    std::size_t space = memory_.size() * sizeof(T);
    data_ = static_cast<T*>(std::align(64, sizeof(T), start, space));
  }
  T* get() const { return data_; }

 private:
  std::vector<T> memory_;
  T* data_;
};

struct LaneBlock {
  const std::int64_t* members;
  std::int64_t count;
};

// Blocks of at most `lanes` replicas of equal key, in ascending order of keys.
class Packing {
 public:
  template <typename Key>
  Packing(std::vector<std::int64_t> replicas, std::int64_t lanes, const Key& key)
      : order_(std::move(replicas)) {
    std::stable_sort(order_.begin(), order_.end(),
                     [&](std::int64_t a, std::int64_t b) { return key(a) < key(b); });
    for (auto first = order_.begin(); first != order_.end();) {
      auto last = first;
      while (last != order_.end() && last - first < lanes && key(*last) == key(*first)) ++last;
      blocks_.push_back({&*first, last - first});
      first = last;
    }
  }
  Packing(const Packing&) = delete;  // blocks point into order_
  Packing& operator=(const Packing&) = delete;

  const std::vector<std::int64_t>& order() const { return order_; }

  // Every thread makes a worker and runs blocks with it until none is left.
  template <typename MakeWorker>
  void run(const MakeWorker& make_worker) const {
    const auto blocks = static_cast<std::int64_t>(blocks_.size());
    const auto threads = std::min<std::int64_t>(torch::stable::get_num_threads(), blocks);
    std::atomic<std::int64_t> next{0};
    parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
      auto worker = make_worker();
      for (std::int64_t share = begin; share < end; ++share)
        for (std::int64_t i; (i = next.fetch_add(1)) < blocks;)
          worker.run(blocks_[static_cast<std::size_t>(i)]);
    });
  }

 private:
  std::vector<std::int64_t> order_;
  std::vector<LaneBlock> blocks_;
};

// The counter that a caller watches: replica steps done, and a request to stop.
class ProgressCounter {
 public:
  explicit ProgressCounter(std::int64_t* progress) : progress_(progress) {}
  bool cancelled() const {
    return std::atomic_ref<std::int64_t>(progress_[1]).load(std::memory_order_relaxed) != 0;
  }
  void report(std::int64_t amount) const {
    std::atomic_ref<std::int64_t>(progress_[0]).fetch_add(amount, std::memory_order_relaxed);
  }

 private:
  std::int64_t* progress_;
};

}  // namespace symfast
