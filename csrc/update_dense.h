// SPDX-License-Identifier: Apache-2.0
// A step on a large parameter under a dense frame whose columns are adjacent in memory. The
// coefficients of a column need all of its units before the first of them may change. Threads share
// the units, whole rows of memory: a row cut into columns costs up to three times its bytes in the
// tables of pages. Every segment of units has sums of its own, which are added up in order: sums
// are what one thread would get, and what a plan without a step gets (segment_units).
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>

#include "update_call.h"

namespace symfast {

// Units [first, first + units) by columns [column, column + width) of a task at o, and the
// coefficients of the first column: `count` rows of the accumulate type, ldc apart, for each of
// `segments`, all rows of one after those of the one before.
struct DenseTile {
  const Task* task;
  int64_t o, first, units, column, width;
  void* c;
  int64_t ldc, segments;
};

// What is done with a tile.
struct DenseKernels {
  void (*enter)(const PlanCall&, const DenseTile&);   // c += A^T U
  void (*finish)(const PlanCall&, const DenseTile&);  // c <- f(c) - c, c summed over segments
  void (*add)(const PlanCall&, const DenseTile&);     // U += A c
};

class DenseWalk {
 public:
  DenseWalk(const Task& task, int64_t o, int64_t number_bytes)
      : task_(task),
        o_(o),
        number_bytes_(number_bytes),
        height_(segment_units(task)),
        segments_((task.units + height_ - 1) / height_),
        tiles_((task.inner + kColumns - 1) / kColumns),
        block_(std::max<int64_t>(8, kBlock / task.inner / 8 * 8)),
        c_(new char[static_cast<std::size_t>(segments_ * segment_bytes())]),
        owner_(new std::atomic<int64_t>[static_cast<std::size_t>(segments_)]()) {}

  int64_t segments() const { return segments_; }

  // Steps on a segment, by step(Span), and adds up the products of every block while it is near.
  template <typename Step>
  void enter(int64_t segment, int64_t thread, const Step& step, const PlanCall& plan,
             const DenseKernels& kernels) {
    owner_[segment].store(thread, std::memory_order_relaxed);
    std::memset(c_of(segment), 0, static_cast<std::size_t>(segment_bytes()));
    each_block(segment, [&](int64_t first, int64_t units) {
      step_on(first, units, step);
      for (int64_t t = 0; t < tiles_; ++t) kernels.enter(plan, tile(t, first, units, segment));
    });
    entered_.fetch_add(1, std::memory_order_release);
  }

  // Once all segments have entered, adds what the verb changes: to the thread's own from the last,
  // which is still near, then to what others have left. Every thread may be told to.
  void add(int64_t thread, const PlanCall& plan, const DenseKernels& kernels) {
    wait_for(entered_, segments_);
    for (int64_t t; (t = tile_.fetch_add(1, std::memory_order_relaxed)) < tiles_;) {
      kernels.finish(plan, tile(t, 0, task_.units, 0));
      finished_.fetch_add(1, std::memory_order_release);
    }
    wait_for(finished_, tiles_);
    for (int64_t s = segments_; s-- > 0;) {
      int64_t mine = thread;
      if (owner_[s].compare_exchange_strong(mine, kDone)) add_to(s, plan, kernels);
    }
    for (int64_t s = 0; s < segments_; ++s) {
      if (owner_[s].exchange(kDone) != kDone) add_to(s, plan, kernels);
    }
  }

 private:
  static constexpr int64_t kBlock = 32768;   // elements: with gradient and states, 512 KB of float
  static constexpr int64_t kColumns = 1024;  // their coefficients stay in the first-level cache
  static constexpr int64_t kDone = -1;
  static constexpr int kPatience = 20000;

  int64_t ldc() const { return task_.inner + 16; }  // not a power of two, see FrameBlock
  int64_t segment_bytes() const { return task_.count * ldc() * number_bytes_; }

  char* c_of(int64_t segment) const { return c_.get() + segment * segment_bytes(); }

  // Calls run(first unit, units) for the blocks of a segment.
  template <typename Run>
  void each_block(int64_t segment, const Run& run) const {
    const int64_t last = std::min((segment + 1) * height_, task_.units);
    for (int64_t first = segment * height_; first < last; first += block_) {
      run(first, std::min(block_, last - first));
    }
  }

  template <typename Step>
  void step_on(int64_t first, int64_t units, const Step& step) const {
    const int64_t begin = task_.base + o_ * task_.outer_stride + first * task_.unit_stride;
    if (task_.unit_stride == task_.inner) {
      step(Span{task_.tensor, begin, begin + units * task_.inner});
    } else {
      step(Span{task_.tensor, begin, begin + task_.inner, units, task_.unit_stride});
    }
  }

  DenseTile tile(int64_t t, int64_t first, int64_t units, int64_t segment) const {
    const int64_t column = t * kColumns, width = std::min(kColumns, task_.inner - column);
    char* c = c_of(segment) + column * number_bytes_;
    return {&task_, o_, first, units, column, width, c, ldc(), segments_};
  }

  void add_to(int64_t segment, const PlanCall& plan, const DenseKernels& kernels) const {
    const int64_t first = segment * height_, units = std::min(height_, task_.units - first);
    for (int64_t t = 0; t < tiles_; ++t) kernels.add(plan, tile(t, first, units, 0));
  }

  static void wait_for(const std::atomic<int64_t>& count, int64_t all) {
    // mostly a few microseconds; whoever gives the processor away too early may lose milliseconds
    int turns = 0;
    while (count.load(std::memory_order_acquire) < all) {
      if (turns < kPatience) {
        ++turns;
      } else {
        std::this_thread::yield();
      }
    }
  }

  const Task& task_;
  const int64_t o_, number_bytes_, height_, segments_, tiles_, block_;
  const std::unique_ptr<char[]> c_;
  std::atomic<int64_t> entered_{0}, tile_{0}, finished_{0};
  const std::unique_ptr<std::atomic<int64_t>[]> owner_;  // the thread that stepped on a segment
};

}  // namespace symfast
