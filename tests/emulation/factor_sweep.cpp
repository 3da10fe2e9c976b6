// SPDX-License-Identifier: Apache-2.0
// The real sweep kernels and their launcher, compiled for the emulator.
#include "factor_sweep_launch.h"

extern "C" void emulated_factor_sweep(const symfast::SweepArguments<EMULATED_TYPE>* arguments,
                                      int64_t most_shared) {
  symfast::launch_sweep(*arguments, nullptr, static_cast<int>(most_shared));
}
