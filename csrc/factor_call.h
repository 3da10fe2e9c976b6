// SPDX-License-Identifier: Apache-2.0
// One call of a product-factor operator on the CPU, as plain pointers.
#pragma once
#include "factor.h"
#include "plan_call.h"

namespace symfast {

// The product of factors, or with a gradient the gradient of every factor.
struct FactorCall {
  Number number;  // of every tensor
  int64_t depth;
  const void* factors[kMaxDepth];
  const void* gradient;  // null: the product
  void* outputs[kMaxDepth];
};

}  // namespace symfast
