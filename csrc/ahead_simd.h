// SPDX-License-Identifier: Apache-2.0
// Asking memory for what comes next, where the hardware does not: it follows a line of addresses,
// and stops at the end of a page or of a short row.
#pragma once
#include "simd.h"

namespace symfast {
namespace SYMFAST_ISA {

// How many blocks ahead of the one at work memory is asked for: 32 KB of them, a microsecond's
// worth, which the second-level cache holds and the first-level one would not.
SF_INLINE int64_t blocks_ahead(int64_t bytes_of_block) {
  return (32768 + bytes_of_block - 1) / bytes_of_block;
}
SF_INLINE void ask_for(const void* p) { __builtin_prefetch(p, 0, 2); }
// Every cache line of a stretch.
SF_INLINE void ask_for(const void* p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) ask_for(static_cast<const char*>(p) + at);
}

// Reads two bytes more of every cache line of a stretch that is about to be read whole. Zen 4 runs
// further ahead of lines that are read in parts: over two streams it gives a tenth more, over
// three and four nothing.
SF_INLINE void read_in_parts(const void* p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) {
    const volatile char* line = static_cast<const char*>(p) + at;
    static_cast<void>(line[16]);
    static_cast<void>(line[32]);
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
