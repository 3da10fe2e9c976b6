// SPDX-License-Identifier: Apache-2.0
// A step on a large parameter under a dense frame whose columns are adjacent in memory. The
// coefficients of a column need all of its units before the first of them may change. Threads share
// the units, whole rows of memory: a row cut into columns costs up to three times its bytes in the
// tables of pages. The units of a block enter the coefficients from the second-level cache, after
// those of the block before, so that sums are what one thread would get.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>

#include "update_call.h"

namespace symfast {

// Units [first, first + units) by columns [column, column + width) of a task at o, and the
// coefficients of the first column: `count` rows of the accumulate type, ldc apart.
struct DenseTile {
  const Task* task;
  int64_t o, first, units, column, width;
  void* c;
  int64_t ldc;
};

// What is done with a tile.
struct DenseKernels {
  void (*enter)(const PlanCall&, const DenseTile&);   // c += A^T U
  void (*finish)(const PlanCall&, const DenseTile&);  // c <- f(c) - c
  void (*add)(const PlanCall&, const DenseTile&);     // U += A c
};

class DenseWalk {
 public:
  // Elements from which threads share the units of one parameter.
  static constexpr int64_t kWorthSharing = 131072;

  DenseWalk(const Task& task, int64_t o, int64_t number_bytes)
      : task_(task),
        o_(o),
        number_bytes_(number_bytes),
        height_(std::max<int64_t>(8, kBlock / task.inner / 8 * 8)),
        tiles_((task.inner + kColumns - 1) / kColumns),
        c_(new char[static_cast<std::size_t>(task.count * ldc() * number_bytes)]()),
        entered_(new std::atomic<int64_t>[static_cast<std::size_t>(tiles_)]()),
        owner_(new std::atomic<int64_t>[static_cast<std::size_t>(blocks())]()) {}

  int64_t blocks() const { return (task_.units + height_ - 1) / height_; }

  // Steps on the block of units, by step(Span), then lets them enter after those before. Blocks
  // must be taken in order: one that waits then waits for a thread that is at work.
  template <typename Step>
  void enter(int64_t block, int64_t thread, const Step& step, const PlanCall& plan,
             const DenseKernels& kernels) {
    owner_[block].store(thread, std::memory_order_relaxed);
    const int64_t first = block * height_, units = std::min(height_, task_.units - first);
    const int64_t begin = task_.base + o_ * task_.outer_stride + first * task_.unit_stride;
    if (task_.unit_stride == task_.inner) {
      step(Span{task_.tensor, begin, begin + units * task_.inner});
    } else {
      step(Span{task_.tensor, begin, begin + task_.inner, units, task_.unit_stride});
    }
    for (int64_t t = 0; t < tiles_; ++t) {
      const DenseTile now = tile(t, first, units);
      wait_for(t, block);
      kernels.enter(plan, now);
      if (block + 1 == blocks()) kernels.finish(plan, now);
      entered_[t].store(block + 1, std::memory_order_release);
    }
  }

  // Once all units have entered, adds what the verb changes: to the thread's own blocks from the
  // last, which is still near, then to what others have left. Every thread may be told to.
  void add(int64_t thread, const PlanCall& plan, const DenseKernels& kernels) {
    for (int64_t t = 0; t < tiles_; ++t) wait_for(t, blocks());
    for (int64_t b = blocks(); b-- > 0;) {
      int64_t mine = thread;
      if (owner_[b].compare_exchange_strong(mine, kDone)) add_to(b, plan, kernels);
    }
    for (int64_t b = 0; b < blocks(); ++b) {
      if (owner_[b].exchange(kDone) != kDone) add_to(b, plan, kernels);
    }
  }

 private:
  static constexpr int64_t kBlock = 65536;   // elements: with gradient and states, a megabyte
  static constexpr int64_t kColumns = 1024;  // their coefficients stay in the first-level cache

  static constexpr int64_t kDone = -1;
  static constexpr int kPatience = 20000;

  int64_t ldc() const { return task_.inner + 16; }  // not a power of two, see FrameBlock

  DenseTile tile(int64_t t, int64_t first, int64_t units) const {
    const int64_t column = t * kColumns, width = std::min(kColumns, task_.inner - column);
    return {&task_, o_, first, units, column, width, c_.get() + column * number_bytes_, ldc()};
  }

  void add_to(int64_t block, const PlanCall& plan, const DenseKernels& kernels) const {
    const int64_t first = block * height_, units = std::min(height_, task_.units - first);
    for (int64_t t = 0; t < tiles_; ++t) kernels.add(plan, tile(t, first, units));
  }

  void wait_for(int64_t t, int64_t blocks) const {
    // mostly a few microseconds; whoever gives the processor away too early may lose milliseconds
    int turns = 0;
    while (entered_[t].load(std::memory_order_acquire) < blocks) {
      if (turns < kPatience) {
        ++turns;
      } else {
        std::this_thread::yield();
      }
    }
  }

  const Task& task_;
  const int64_t o_, number_bytes_, height_, tiles_;
  const std::unique_ptr<char[]> c_;
  const std::unique_ptr<std::atomic<int64_t>[]> entered_;  // blocks, by tile of columns
  const std::unique_ptr<std::atomic<int64_t>[]> owner_;    // the thread that stepped on a block
};

}  // namespace symfast
