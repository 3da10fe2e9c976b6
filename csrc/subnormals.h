// SPDX-License-Identifier: Apache-2.0
// Subnormal numbers count as zero while an object of this class lives (on its thread).
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace symfast {

// Penalised factors decay through the subnormal range, where processors are slow and where rounding
// stops them short of zero. Flushing makes the fold exact and costs nothing.
class FlushSubnormals {
 public:
#if defined(__SSE2__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned int saved_;
#elif defined(__aarch64__)
  FlushSubnormals() : saved_(read()) { write(saved_ | (std::uint64_t{1} << 24)); }
  ~FlushSubnormals() { write(saved_); }

 private:
  static std::uint64_t read() {
    std::uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(std::uint64_t value) { asm volatile("msr fpcr, %0" ::"r"(value)); }
  std::uint64_t saved_;
#else
  FlushSubnormals() {}
  ~FlushSubnormals() {}
#endif
};

}  // namespace symfast
