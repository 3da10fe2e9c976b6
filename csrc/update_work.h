// SPDX-License-Identifier: Apache-2.0
// The pieces of a step on the CPU, and which thread does them.
#pragma once
#include <algorithm>
#include <atomic>
#include <vector>

#include "parallel.h"
#include "update_dense.h"

namespace symfast {

constexpr int64_t kShare = 32768;  // elements of one piece of work

// A piece of work: spans [first, last), the chunks [first, last) of a list, or a segment of a
// walk.
enum class Job { kSpans, kChunks, kEnter, kAdd };
struct Work {
  Job job;
  int64_t first, last;
  DenseWalk* walk = nullptr;  // of its segment `first`
};

inline void add_spans(int64_t tensor, int64_t begin, int64_t end, std::vector<Span>& spans) {
  for (int64_t i = begin; i < end;) {
    const int64_t next = (i / kShare + 1) * kShare, stop = next < end ? next : end;
    spans.push_back({tensor, i, stop});
    i = stop;
  }
}

// Neighbouring spans together, until they are worth a share.
inline void share_out(const std::vector<Span>& spans, std::vector<Work>& work) {
  int64_t first = 0, elements = 0;
  const auto count = static_cast<int64_t>(spans.size());
  for (int64_t i = 0; i < count; ++i) {
    elements += spans[i].end - spans[i].begin;
    if (elements < kShare && i + 1 < count) continue;
    work.push_back({Job::kSpans, first, i + 1});
    first = i + 1;
    elements = 0;
  }
}

// Walks go first, in order. Of the other pieces every thread has a row of its own, so that it
// walks long stretches of memory, and takes of others' when it is done: pieces differ in size,
// and threads in speed.
template <typename Scratch, typename Run>
void for_all(const std::vector<Work>& ordered, const std::vector<Work>& work,
             const Scratch& make_scratch, const Run& run) {
  const auto count = static_cast<int64_t>(work.size());
  const auto pieces = static_cast<int64_t>(ordered.size()) + count;
  const int64_t threads =
      std::min<int64_t>(torch::stable::get_num_threads(), std::max<int64_t>(pieces, 1));
  std::atomic<int64_t> first{0};
  std::vector<std::atomic<int64_t>> next(threads);
  for (int64_t t = 0; t < threads; ++t) next[t] = count * t / threads;
  const auto take = [&](int64_t own, int64_t) {
    const auto scratch = make_scratch();
    const auto walks = static_cast<int64_t>(ordered.size());
    for (int64_t i; (i = first.fetch_add(1, std::memory_order_relaxed)) < walks;) {
      run(ordered[i], own, scratch.get());
    }
    for (int64_t other = 0; other < threads; ++other) {
      const int64_t row = (own + other) % threads, end = count * (row + 1) / threads;
      for (int64_t i; (i = next[row].fetch_add(1, std::memory_order_relaxed)) < end;) {
        run(work[i], own, scratch.get());
      }
    }
  };
  if (threads == 1) return take(0, 1);
  parallel_for(0, threads, 1, take);
}

}  // namespace symfast
