// SPDX-License-Identifier: Apache-2.0
// Group prox of a plan: the coefficients of a mirror times max(0, 1 - t / norm).
#pragma once
#include "plan.h"

namespace symfast {

// What a mirror of this norm is shrunk by: C <- (1 - amount) C. NaN stays NaN, 0/0 is all of it.
SF_HOST_DEVICE double group_shrinkage(double norm, double threshold) {
  return norm <= threshold ? 1.0 : threshold / norm;
}

}  // namespace symfast
