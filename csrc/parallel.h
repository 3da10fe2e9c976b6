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
  void* const shared = const_cast<void*>(static_cast<const void*>(&range));
  __tsan_release(shared);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(
      begin, end, grain,
      [](int64_t first, int64_t last, void* given) {
        __tsan_acquire(given);
        (*static_cast<const Range*>(given))(first, last);
        __tsan_release(given);
      },
      shared));
  __tsan_acquire(shared);
}

#else

using torch::stable::parallel_for;

#endif

}  // namespace symfast
