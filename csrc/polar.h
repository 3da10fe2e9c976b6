// SPDX-License-Identifier: Apache-2.0
// Orthogonal polar factors of square matrices by scaled Newton-Schulz iterations:
//   G = X^T X     X <- X (3/2 a I - 1/2 a^3 G)     a = sqrt(3 / (1 + l + l^2))
// maps singular values from [l, 1] into [l', 1], l' = 1/2 a l (3 - a^2 l^2), with the steepest
// cubic there is (Chen & Chow 2014, "A stable scaling of Newton-Schulz"). a falls to 1 as l' rises
// to 1.
#pragma once
#include <cstdint>

#include "plan_call.h"

namespace symfast {

// Singular values below kPolarLow of the largest only converge later. A matrix that needs more than
// kPolarSteps steps (its smallest is below 1e-6 or so) is left to a singular value decomposition.
constexpr double kPolarLow = 1e-3;
constexpr int kPolarSteps = 36;

// One step squares the error ||I - G||_F (times 3/4); below this one more step suffices.
template <typename T>
constexpr double kPolarNear = sizeof(T) == 8 ? 1e-8 : 3e-4;

struct PolarStep {
  double identity, gram;  // X <- X (identity I + gram G)
};

// The next step's coefficients; low is moved on.
SF_HOST_DEVICE PolarStep polar_step(double& low) {
  const double a = __builtin_sqrt(3.0 / (1.0 + low + low * low));
  low = 0.5 * a * low * (3.0 - a * a * low * low);
  if (low > 1.0) low = 1.0;
  return {1.5 * a, -0.5 * a * a * a};
}

// A batch on the CPU as plain pointers.
struct PolarCall {
  Number number;     // f64 or f32
  const void* a;     // (batch, d, d)
  void* q;           // (batch, d, d)
  bool* converged;   // (batch,)
  int64_t d, width;  // width: d rounded up to whole registers
};

// Workspace of one thread, in numbers: X, the next X, G.
SF_HOST_DEVICE int64_t polar_scratch(const PolarCall& call) { return 3 * call.width * call.width; }

}  // namespace symfast
