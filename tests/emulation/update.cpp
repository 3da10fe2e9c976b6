// SPDX-License-Identifier: Apache-2.0
// The real step kernels and their launcher, compiled for the emulator.
#include "update_launch.h"

extern "C" void emulated_update(int64_t rule, int64_t counts, int64_t rows, const double* settings,
                                const int64_t* keys, const float* grad_scale,
                                const float* found_inf, int64_t* words, int64_t tensors,
                                int64_t* table) {
  using namespace symfast;
  std::vector<int64_t> all(words, words + tensors * kUpdateWords);
  launch_update<EMULATED_TYPE>({static_cast<Rule>(rule), counts != 0, rows, settings, keys,
                                grad_scale, found_inf, all, table, nullptr});
}
