// SPDX-License-Identifier: Apache-2.0
// Blocks of one launch that wait for others. No GPU says in which order blocks start, or how many
// run at once, but a block that takes a number as it starts knows that all smaller numbers run
// already: it may wait for them, whatever the size of the grid.
#pragma once
#include "device.h"

namespace symfast {

// Counts by all blocks of a launch, `total` in all; nobody has to clear the memory before. A count
// of n is tag + n. Anything outside [tag, tag + total) is a count of zero: what was there before,
// and what the last count leaves to the next replay of a captured graph, which has the same tag.
struct Counter {
  int64_t* word;
  int64_t tag;  // of this call alone
  int64_t total;
};

SF_DEVICE int64_t counts(const Counter& counter, int64_t word) {
  const uint64_t count = static_cast<uint64_t>(word) - static_cast<uint64_t>(counter.tag);
  return count < static_cast<uint64_t>(counter.total) ? static_cast<int64_t>(count) : 0;
}

// How often the counter has been counted up before. By one thread of a block.
SF_DEVICE int64_t count_up(const Counter& counter) {
  const int64_t found = load_signal(counter.word);
  if (counts(counter, found) == 0) compare_and_swap(counter.word, found, counter.tag);
  return counts(counter, fetch_add(counter.word, 1));
}

// Until the counter has been counted up so often. By one thread of a block; the others at a
// barrier.
SF_DEVICE void wait_for(const Counter& counter, int64_t count) {
  while (counts(counter, load_signal(counter.word)) < count) back_off();
  __threadfence();
}

// What this block stored before, all its threads, can be seen by who has waited for the count.
SF_DEVICE void arrive(const Counter& counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    count_up(counter);
  }
}

}  // namespace symfast
