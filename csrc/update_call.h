// SPDX-License-Identifier: Apache-2.0
// A step on many parameters on the CPU, as plain pointers: what update.cpp checked and
// update_simd.cpp runs.
#pragma once
#include "plan_call.h"
#include "update.h"

namespace symfast {

// Parameters as flat memory: gradients and states lie in the same order. `second` is null for SGD,
// `first` of a parameter without momentum.
struct UpdateCall {
  Number number;
  Rule rule;
  void* const* parameters;
  const void* const* gradients;
  void* const* first;
  void* const* second;
  const StepScalars* scalars;  // one for each parameter
  bool asks_ahead;             // whether spans ask memory for what comes
};

// Elements [begin, end) of one parameter; `rows` of them, each `step` after the one before. While
// an element is stepped, the one `ahead` elements further is asked for; 0: what lies kAheadBytes
// further in memory.
struct Span {
  int64_t tensor, begin, end;
  int64_t rows = 1, step = 0, ahead = 0;
};

// Far enough for memory to answer, near enough to stay in the first-level cache: four streams of
// this are 8 KB. The hardware's own prefetching stops at every page.
constexpr int64_t kAheadBytes = 2048;

}  // namespace symfast
