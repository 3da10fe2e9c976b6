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
  for (int64_t i = 0; i < n; i += tested::kDrawn) {
    tested::Drawn drawn;
    tested::draw_noise(*stream, first + i, drawn);
    __builtin_memcpy(lanes + i, &drawn, sizeof drawn);
  }
}

// n, a multiple of 64, anchors and spreads from any element, all below a multiple of 2^32.
extern "C" void anchors(uint64_t seed, uint32_t parameter, int64_t first, int64_t n, float* single,
                        float* lanes, float* spread_single, float* spread_lanes) {
  const AnchorKeys keys = anchor_keys(seed, parameter, first);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t word = anchor_word(static_cast<uint32_t>(first + i) + keys.key[0], keys.key[1]);
    single[i] = word_normal<float>(word);
    spread_single[i] = word_spread<float>(word);
  }
  auto walk = tested::AnchorWalk::make(keys, first);
  for (int64_t i = 0; i < n; i += tested::kDrawn) {
    tested::Drawn anchor, spread;
    walk.next<true>(anchor, spread);
    __builtin_memcpy(lanes + i, &anchor, sizeof anchor);
    __builtin_memcpy(spread_lanes + i, &spread, sizeof spread);
  }
}
