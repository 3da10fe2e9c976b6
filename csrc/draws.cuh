// SPDX-License-Identifier: Apache-2.0
// Single words and normal numbers of draws.h, for a CUDA thread.
#pragma once
#include "device.h"
#include "draws.h"

namespace symfast {

// An index known at run time only would put the words into local memory.
SF_DEVICE std::uint32_t pick_word(const PhiloxWords<std::uint64_t>& words, int i) {
  const std::uint64_t low = i == 0 ? words.word[0] : words.word[1];
  const std::uint64_t high = i == 2 ? words.word[2] : words.word[3];
  return static_cast<std::uint32_t>(i < 2 ? low : high);
}

// Number `sample` of the minibatch of a step.
SF_DEVICE std::int64_t row_of_sample(std::uint64_t seed, std::int64_t step, std::int64_t sample,
                                     std::int64_t samples) {
  const auto words = random_block(batch_stream(static_cast<std::int64_t>(seed), step),
                                  static_cast<std::uint64_t>(sample / 4));
  return sample_of(pick_word(words, static_cast<int>(sample % 4)), samples);
}

template <typename T>
SF_DEVICE T normal_of(std::uint64_t seed, RandomPurpose purpose, std::int64_t cell,
                      std::int64_t step, std::int64_t element) {
  const RandomStream stream{seed, purpose, static_cast<std::uint32_t>(cell),
                            static_cast<std::uint32_t>(step)};
  const auto words = random_block(stream, static_cast<std::uint64_t>(element / 4));
  const int first = element % 4 < 2 ? 0 : 2;
  const auto pair = normal_pair<float>(pick_word(words, first), pick_word(words, first + 1));
  return static_cast<T>(element % 2 ? pair.second : pair.first);
}

}  // namespace symfast
