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
// Doubles get the float numbers: those of the even lanes.
SF_INLINE void store_pair(double* noise, const NormalPair<Vec<float>>& pair) {
  for (int l = 0; l < kLanes<double>; ++l) {
    noise[l] = static_cast<double>(pair.first[2 * l]);
    noise[kLanes<double> + l] = static_cast<double>(pair.second[2 * l]);
  }
}

// `count` normal numbers per lane into noise (count, lanes), which has room for a multiple of four.
template <typename T>
void draw_noise(T* noise, std::int64_t seed, const std::int64_t* cell, RandomPurpose purpose,
                std::int64_t step, std::int64_t count) {
  constexpr int stride = sizeof(T) == 4 ? 2 : 1;
  const Words64 even = cells_of(cell, 0, stride), odd = cells_of(cell, stride - 1, stride);
  const auto key = static_cast<std::uint64_t>(seed);
  for (std::int64_t start = 0; start < count; start += 4) {
    const auto low = draw_words(key, purpose, even, step, start / 4);
    const auto high = stride == 2 ? draw_words(key, purpose, odd, step, start / 4) : low;
    Bits32 word[4];
    for (int i = 0; i < 4; ++i) word[i] = interleave_words(low.word[i], high.word[i]);
    T* const four = noise + start * kLanes<T>;
    store_pair(four, normal_pair<Vec<float>>(word[0], word[1]));
    store_pair(four + 2 * kLanes<T>, normal_pair<Vec<float>>(word[2], word[3]));
  }
}

}  // namespace
}  // namespace SYMFAST_ISA
}  // namespace symfast
