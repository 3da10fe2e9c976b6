// SPDX-License-Identifier: Apache-2.0
// The random numbers of a step: an anchor and gradient noise, cheap enough to be drawn in registers
// while memory is read. CPU lanes of any instruction set and CUDA threads give the same bits.
//
// Element i of a parameter has one word for its anchor, the bijective hash of its low 32 bits under
// two keys,
//   x = i + key0;  x ^= x >> 16;  x *= 0x21f0aaad;  x += key1;  x ^= x >> 15;  x *= 0xd35a2d97;
//   x ^= x >> 15
// (constants of least bias from the search of C. Wellons, "hash prospector", 2018); the keys are a
// Philox block of (seed, purpose, parameter, i >> 32). Noise takes its words from Philox itself, of
// seven rounds. The bytes b of a word give the integer
//   y = 255 (64 b0 + 63 b1) + 257 (64 b2 + 63 b3) - 8290560,
// nearly the sum of four uniform numbers but with 14.7 million different values, and an odd
// polynomial makes that normal: variance 1, kurtosis 2.99, distribution function within 5.2e-4,
// largest value 4.4.
#pragma once
#include "philox.h"

namespace symfast {

constexpr float kAnchorFirst = 4.020757842226885e-07f, kAnchorThird = 4.1403181594794793e-22f,
                kAnchorFifth = 2.0366864513116207e-35f;

// What belongs to 2^32 elements of one parameter.
struct AnchorKeys {
  uint32_t key[2];
};

SF_HOST_DEVICE AnchorKeys anchor_keys(uint64_t seed, uint32_t parameter, int64_t element) {
  const auto words =
      random_block(RandomStream{seed, kAnchor, parameter, 0}, static_cast<uint64_t>(element) >> 32);
  return {{static_cast<uint32_t>(words.word[0]), static_cast<uint32_t>(words.word[1])}};
}

// The word of an element, x being its low 32 bits plus key[0]; W is uint32_t or a vector of them.
template <typename W>
SF_HOST_DEVICE W anchor_word(W x, uint32_t key1) {
  x = x ^ (x >> 16);
  x = x * 0x21f0aaadu + key1;
  x = x ^ (x >> 15);
  x = x * 0xd35a2d97u;
  return x ^ (x >> 15);
}

// y of the formula above.
template <typename W>
struct AnchorSum {
  SF_HOST_DEVICE static W of(W word) {
    const W even = word & 0x00ff00ffu, odd = (word >> 8) & 0x00ff00ffu;
    const W pairs = ((even + odd) << 6) - odd;  // of 16 bits
    const W low = pairs & 0xffffu, high = pairs >> 16;
    return ((low + high) << 8) + high - low - 8290560u;
  }
};

// The normal number of a word.
template <typename F, typename W>
SF_HOST_DEVICE F word_normal(W word) {
  using M = NormalMath<F>;
  constexpr F zero{};
  const F y = M::to_float((typename M::Int)AnchorSum<W>::of(word));  // exact
  const F z = y * y;
  F p = M::multiply_add(z, zero + kAnchorFifth, zero + kAnchorThird);
  p = M::multiply_add(z, p, zero + kAnchorFirst);
  return y * p;
}

// 2 u - 1 for an anchor's word, with u in [0, 1) of 24 bits, exact. The product mixes all bytes, so
// that no part of the anchor's size remains.
template <typename F, typename W>
SF_HOST_DEVICE F word_spread(W word) {
  using M = NormalMath<F>;
  return M::to_float((typename M::Int)((word * 0x9e3779b1u) >> 8) - (1 << 23)) * 0x1p-23f;
}

// ---- which noise belongs to which element ----
// A block gives 4 numbers, 8 blocks the 32 elements of a group. Element 32 g + 16 v + l has word
// 2 (l % 2) + v of block 8 g + l / 2.
constexpr int kNoiseRounds = 7;

SF_HOST_DEVICE float noise_normal(const RandomStream& stream, int64_t element) {
  const int64_t group = element >> 5, v = element >> 4 & 1, l = element & 15;
  const auto block = random_block<kNoiseRounds>(stream, static_cast<uint64_t>(8 * group + l / 2));
  return word_normal<float>(static_cast<uint32_t>(block.word[2 * (l % 2) + v]));
}

}  // namespace symfast
