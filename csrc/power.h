// SPDX-License-Identifier: Apache-2.0
// Powers of rates, for the bias corrections of Adam.
#pragma once
#include <cstdint>

#include "plan.h"

namespace symfast {

// x^n by squaring: the same bits on every backend, unlike pow.
SF_HOST_DEVICE double whole_power(double x, uint32_t n) {
  double result = 1;
  for (; n; n >>= 1, x = x * x) result = n & 1 ? result * x : result;
  return result;
}

}  // namespace symfast
