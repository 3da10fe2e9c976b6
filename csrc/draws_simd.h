// SPDX-License-Identifier: Apache-2.0
// Minibatches and normal numbers of draws.h on lanes of replicas: the rows of a minibatch are drawn
// from (seed, step), lane l of normal number i from (seed, cell of l, step, i), four from a block
// of words.
#pragma once
#include "draws.h"
#include "philox_simd.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

constexpr int kHalf = kVectorBytes / 8;  // words a vector of 64-bit lanes holds

// Calls take(s, row) for every sample s of the minibatch of a step, several blocks of words at
// once.
template <typename Take>
SF_INLINE void draw_rows(std::int64_t seed, std::int64_t step, std::int64_t samples,
                         std::int64_t batch, const Take& take) {
  Words64 block;
  for (int l = 0; l < kHalf; ++l) block[l] = static_cast<std::uint64_t>(l);
  const RandomStream stream = batch_stream(seed, step);
  for (std::int64_t start = 0; start < batch; start += 4 * kHalf) {
    const auto words = random_block(stream, block + static_cast<std::uint64_t>(start / 4));
    alignas(kVectorBytes) std::uint64_t row[4][kHalf];
    for (int i = 0; i < 4; ++i)
      *reinterpret_cast<Words64*>(row[i]) =
          ((words.word[i] & 0xffffffffu) * static_cast<std::uint64_t>(samples)) >> 32;
    const std::int64_t count = batch - start < 4 * kHalf ? batch - start : 4 * kHalf;
    for (std::int64_t s = 0; s < count; ++s)
      take(start + s, static_cast<std::int64_t>(row[s % 4][s / 4]));
  }
}

// The counter of every second lane of a vector of floats, or of all lanes of one of doubles.
SF_INLINE Words64 cells_of(const std::int64_t* cell, int start, int step) {
  Words64 found;
  for (int l = 0; l < kHalf; ++l) found[l] = static_cast<std::uint64_t>(cell[start + step * l]);
  return found;
}

SF_INLINE PhiloxWords<Words64> draw_words(std::uint64_t seed, RandomPurpose purpose, Words64 cells,
                                          std::int64_t step, std::int64_t block) {
  const Words64 zero{};
  const PhiloxWords<Words64> counter = {{zero + static_cast<std::uint64_t>(block),
                                         zero + static_cast<std::uint64_t>(step), cells,
                                         zero + (std::uint64_t{purpose} << 24)}};
  return philox4x32(counter, static_cast<std::uint32_t>(seed),
                    static_cast<std::uint32_t>(seed >> 32));
}

SF_INLINE void store_pair(float* noise, const NormalPair<Vec<float>>& pair) {
  store(noise, pair.first);
  store(noise + kLanes<float>, pair.second);
}
// Doubles get the float numbers, those of every second lane from `odd` on.
SF_INLINE Vec<double> widen_lanes(Vec<float> x, int odd) {
  typedef std::uint32_t Half __attribute__((vector_size(kVectorBytes / 2)));
  typedef float Floats __attribute__((vector_size(kVectorBytes / 2)));
  const Half half = __builtin_convertvector((Words64)x >> (32 * odd), Half);
  return __builtin_convertvector((Floats)half, Vec<double>);
}
SF_INLINE void store_pair(double* noise, const NormalPair<Vec<float>>& pair, int odd) {
  store(noise, widen_lanes(pair.first, odd));
  store(noise + kLanes<double>, widen_lanes(pair.second, odd));
}

SF_INLINE void interleave_blocks(const PhiloxWords<Words64>& even, const PhiloxWords<Words64>& odd,
                                 Bits32 (&word)[4]) {
  for (int i = 0; i < 4; ++i) word[i] = interleave_words(even.word[i], odd.word[i]);
}

// `count` normal numbers per lane into noise (count, lanes), which has room for a multiple of four.
inline void draw_noise(float* noise, std::int64_t seed, const std::int64_t* cell,
                       RandomPurpose purpose, std::int64_t step, std::int64_t count) {
  const Words64 even = cells_of(cell, 0, 2), odd = cells_of(cell, 1, 2);
  const auto key = static_cast<std::uint64_t>(seed);
  for (std::int64_t start = 0; start < count; start += 4) {
    Bits32 word[4];
    interleave_blocks(draw_words(key, purpose, even, step, start / 4),
                      draw_words(key, purpose, odd, step, start / 4), word);
    float* const four = noise + start * kLanes<float>;
    store_pair(four, normal_pair<Vec<float>>(word[0], word[1]));
    store_pair(four + 2 * kLanes<float>, normal_pair<Vec<float>>(word[2], word[3]));
  }
}
// Two blocks of words side by side, in the lanes of as many floats.
inline void draw_noise(double* noise, std::int64_t seed, const std::int64_t* cell,
                       RandomPurpose purpose, std::int64_t step, std::int64_t count) {
  const Words64 cells = cells_of(cell, 0, 1);
  const auto key = static_cast<std::uint64_t>(seed);
  for (std::int64_t start = 0; start < count; start += 8) {
    Bits32 word[4];
    interleave_blocks(draw_words(key, purpose, cells, step, start / 4),
                      draw_words(key, purpose, cells, step, start / 4 + 1), word);
    const auto low = normal_pair<Vec<float>>(word[0], word[1]);
    const auto high = normal_pair<Vec<float>>(word[2], word[3]);
    for (int odd = 0; odd < 2 && start + 4 * odd < count; ++odd) {
      double* const four = noise + (start + 4 * odd) * kLanes<double>;
      store_pair(four, low, odd);
      store_pair(four + 2 * kLanes<double>, high, odd);
    }
  }
}

}  // namespace
}  // namespace SYMFAST_ISA
}  // namespace symfast
