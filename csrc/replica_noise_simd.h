// SPDX-License-Identifier: Apache-2.0
// Normal numbers for replica_simd.cpp: lane l of number i is drawn from (seed, cell of l, step, i).
#pragma once
#include "elementary_simd.h"
#include "replica.h"
#include "replica_tiles_simd.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

// The words of one counter block in every lane, upper 24 bits.
template <typename T>
struct LaneWords {
  typename Lanes<Vec<T>>::Integer word[4];
};

template <typename T>
SF_INLINE LaneWords<T> draw_lanes(std::int64_t seed, const std::uint32_t (&cell)[kLanes<T>],
                                  std::uint32_t block, std::uint32_t step, Stream stream) {
  constexpr int L = kLanes<T>;
  std::uint32_t c0[L], c1[L], c2[L], c3[L];
  for (int l = 0; l < L; ++l) {
    c0[l] = block;
    c1[l] = step;
    c2[l] = cell[l];
    c3[l] = static_cast<std::uint32_t>(stream);
  }
  auto key0 = static_cast<std::uint32_t>(seed);
  auto key1 = static_cast<std::uint32_t>(static_cast<std::uint64_t>(seed) >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int l = 0; l < L; ++l) {
      const std::uint64_t a = std::uint64_t{0xD2511F53u} * c0[l];
      const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * c2[l];
      c0[l] = static_cast<std::uint32_t>(b >> 32) ^ c1[l] ^ key0;
      c1[l] = static_cast<std::uint32_t>(b);
      c2[l] = static_cast<std::uint32_t>(a >> 32) ^ c3[l] ^ key1;
      c3[l] = static_cast<std::uint32_t>(a);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  LaneWords<T> words;
  for (int l = 0; l < L; ++l) {
    words.word[0][l] = static_cast<std::int32_t>(c0[l] >> 8);
    words.word[1][l] = static_cast<std::int32_t>(c1[l] >> 8);
    words.word[2][l] = static_cast<std::int32_t>(c2[l] >> 8);
    words.word[3][l] = static_cast<std::int32_t>(c3[l] >> 8);
  }
  return words;
}

// `count` normal numbers per lane into b.noise.
template <typename T>
void draw_noise(const ReplicaBlock<T>& b, Stream stream, std::int64_t step, std::int64_t count) {
  constexpr int L = kLanes<T>;
  std::uint32_t cell[L];
  for (int l = 0; l < L; ++l) cell[l] = static_cast<std::uint32_t>(b.cell[l]);
  for (std::int64_t start = 0; start < count; start += 4) {
    const LaneWords<T> w = draw_lanes<T>(b.seed, cell, static_cast<std::uint32_t>(start / 4),
                                         static_cast<std::uint32_t>(step), stream);
    const auto low = normals<Vec<T>>(w.word[0], w.word[1]);
    const auto high = normals<Vec<T>>(w.word[2], w.word[3]);
    const Vec<T> found[4] = {low.first, low.second, high.first, high.second};
    for (std::int64_t i = 0; i < 4 && start + i < count; ++i)
      lanes(b.noise + (start + i) * L) = found[i];
  }
}

}  // namespace
}  // namespace SYMFAST_ISA
}  // namespace symfast
