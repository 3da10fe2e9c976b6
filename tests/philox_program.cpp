// SPDX-License-Identifier: Apache-2.0
// csrc/philox.h and csrc/anchor.h, number by number and on lanes, for test_philox.py.
#define SYMFAST_ISA tested
#include "anchor_simd.h"

using namespace symfast;

extern "C" void words(const uint32_t* counter, const uint32_t* key, uint32_t* out) {
  PhiloxWords<uint64_t> c;
  for (int i = 0; i < 4; ++i) c.word[i] = counter[i];
  const auto found = philox4x32(c, key[0], key[1]);
  for (int i = 0; i < 4; ++i) out[i] = static_cast<uint32_t>(found.word[i]);
}

// n, a multiple of 64, noise from element `first`, a multiple of 64.
extern "C" void noise(const RandomStream* stream, int64_t first, int64_t n, float* single,
                      float* lanes) {
  for (int64_t i = 0; i < n; ++i) single[i] = noise_normal(*stream, first + i);
  for (int64_t i = 0; i < n; i += 64) tested::noise_group(*stream, (first + i) / 64, lanes + i);
}

// n, a multiple of the lanes, anchors and spreads from any element, all below a multiple of 2^32.
extern "C" void anchors(uint64_t seed, uint32_t parameter, int64_t first, int64_t n, float* single,
                        float* lanes, float* spread_single, float* spread_lanes) {
  const AnchorKeys keys = anchor_keys(seed, kAnchor, parameter, first);
  const AnchorKeys spreads = anchor_keys(seed, kAnchorSpread, parameter, first);
  const auto word = [](const AnchorKeys& k, int64_t i) {
    return anchor_word(static_cast<uint32_t>(i) + k.key[0], k.key[1]);
  };
  for (int64_t i = 0; i < n; ++i) {
    single[i] = anchor_number<float>(word(keys, first + i));
    spread_single[i] = spread_number<float>(word(spreads, first + i));
  }
  auto walk = tested::AnchorWalk::make(keys, first);
  auto spread_walk = tested::AnchorWalk::make(spreads, first);
  for (int64_t i = 0; i < n; i += tested::kLanes<float>) {
    tested::store(lanes + i, tested::anchor_lanes(walk.next()));
    tested::store(spread_lanes + i, tested::spread_lanes(spread_walk.next()));
  }
}
