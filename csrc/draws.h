// SPDX-License-Identifier: Apache-2.0
// Which random numbers belong to a step of a replica of a sweep: minibatches come from (seed,
// step), label and gradient noise from (seed, cell, step). On lanes: draws_simd.h; on CUDA threads:
// draws.cuh.
#pragma once

#include <cstdint>

#include "arithmetic.h"
#include "philox.h"

namespace symfast {

// Sample s of the minibatch of a step, drawn with replacement: the upper half of word * samples.
SYMFAST_SWEEP_INLINE std::int64_t sample_of(std::uint32_t word, std::int64_t samples) {
  return static_cast<std::int64_t>(
      (static_cast<std::uint64_t>(word) * static_cast<std::uint64_t>(samples)) >> 32);
}

// The minibatch depends on the seed and the step only: cells are compared on the same data.
SYMFAST_SWEEP_INLINE RandomStream batch_stream(std::int64_t seed, std::int64_t step) {
  return {static_cast<std::uint64_t>(seed), kBatchIndex, 0, static_cast<std::uint32_t>(step)};
}

}  // namespace symfast
