// SPDX-License-Identifier: Apache-2.0
// Torch's threads, in a way that ThreadSanitizer can follow.
#pragma once
#include <torch/csrc/stable/ops.h>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace symfast {

#if defined(__SANITIZE_THREAD__)

// The runtime that starts and joins torch's threads is not instrumented, so that ThreadSanitizer
// takes what a thread reads for a race with what its caller wrote before and writes afterwards. It
// is told here just what the runtime guarantees: every range runs after the call began and before
// it ends. Two ranges stay unordered, and a race between them is still found.
template <typename Range>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Range& range) {
  struct Call {
    const Range* range;
    int64_t ended;  // a place of its own: what a range releases there no other range acquires
  } call{&range, 0};
  __tsan_release(&call.range);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(
      begin, end, grain,
      [](int64_t first, int64_t last, void* given) {
        Call& call = *static_cast<Call*>(given);
        __tsan_acquire(&call.range);
        (*call.range)(first, last);
        __tsan_release(&call.ended);
      },
      &call));
  __tsan_acquire(&call.ended);
}

#else

using torch::stable::parallel_for;

#endif

}  // namespace symfast
