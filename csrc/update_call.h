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
};

// Elements [begin, end) of one parameter.
struct Span {
  int64_t tensor, begin, end;
};

}  // namespace symfast
