// SPDX-License-Identifier: Apache-2.0
// Dense mirrors on rows of parameters: theta (groups, rows, d), O (groups, d, k).
//   c = O^T theta          out = theta + O (f(c) - c)
// f as in plan.h; kGroup prox scales all k coefficients of a row by max(0, 1 - t / ||c||_2).
#pragma once
#include "plan.h"

namespace symfast {

enum ProxMode : int64_t { kL1 = 0, kGroup = 1 };

// How much a mirror of this norm is shrunk by in group prox, c <- (1 - amount) c, and what its
// coefficients are multiplied by. NaN stays NaN; a threshold of zero or more ends a norm of zero.
template <typename A>
SF_HOST_DEVICE A group_shrinkage(A norm, A threshold) {
  return norm <= threshold ? A(1) : threshold / norm;
}
template <typename A>
SF_HOST_DEVICE A group_factor(A norm, A threshold) {
  return A(1) - group_shrinkage(norm, threshold);
}

}  // namespace symfast
