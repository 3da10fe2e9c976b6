// SPDX-License-Identifier: Apache-2.0
// Dense mirrors on rows of parameters: theta (groups, rows, d), O (groups, d, k).
//   c = O^T theta          out = theta + O (f(c) - c)
// f as in plan.h; kGroup prox scales all k coefficients of a row by max(0, 1 - t / ||c||_2).
#pragma once
#include "plan.h"

namespace symfast {

enum ProxMode : int64_t { kL1 = 0, kGroup = 1 };

// What one row's coefficients are multiplied by in group prox. NaN stays NaN, 0/0 is no shrinkage.
template <typename A>
SF_HOST_DEVICE A group_factor(A norm, A threshold) {
  return norm <= threshold ? A(0) : A(1) - threshold / norm;
}

}  // namespace symfast
