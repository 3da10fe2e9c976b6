// SPDX-License-Identifier: Apache-2.0
// csrc/philox.h, number by number and on lanes, for test_philox.py.
#define SYMFAST_ISA tested
#include "philox_simd.h"

using namespace symfast;

extern "C" void words(const uint32_t* counter, const uint32_t* key, uint32_t* out) {
  PhiloxWords<uint64_t> c;
  for (int i = 0; i < 4; ++i) c.word[i] = counter[i];
  const auto found = philox4x32(c, key[0], key[1]);
  for (int i = 0; i < 4; ++i) out[i] = static_cast<uint32_t>(found.word[i]);
}

// n, a multiple of 64, numbers from element `first`, a multiple of 64.
extern "C" void numbers(const RandomStream* stream, int64_t first, int64_t n, float* single,
                        float* lanes) {
  const bool anchor = stream->purpose == kAnchor;
  for (int64_t i = 0; i < n; ++i) {
    single[i] = anchor ? anchor_normal(*stream, first + i) : noise_normal(*stream, first + i);
  }
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t group = (first + i) / 64;
    anchor ? tested::anchor_group(*stream, group, lanes + i)
           : tested::noise_group(*stream, group, lanes + i);
  }
}
