// SPDX-License-Identifier: Apache-2.0
// Random numbers in the product-factor sweep, shared by the CPU lanes and the CUDA threads.
//
// A step of a replica with minibatches or label noise takes B rows x_s of the data and the gradient
//   g = 1/B sum_s x_s (x_s . w - y_s - sigma z_s),
// with z_s ~ N(0, 1) from (seed, cell, step) and rows from (seed, step): draws.h. Other replicas
// have g = Gram w - linear. Gradient noise adds sigma' z to g, the gradient with respect to the
// product w: the factors get it as they get g, so the mirrors stay.
#pragma once

#include <cstdint>

#include "draws.h"

namespace symfast {

// Data in the coordinates that are trained: coordinate (f, o) is f outputs + o, or by output
// o inputs + f.
struct SampleShape {
  std::int64_t samples, inputs, outputs;
  bool by_output;

  SYMFAST_SWEEP_INLINE std::int64_t feature_stride() const { return by_output ? 1 : outputs; }
  SYMFAST_SWEEP_INLINE std::int64_t output_stride() const { return by_output ? inputs : 1; }
};

template <typename T>
struct SampleArguments {
  const T* x;                 // (samples, inputs)
  const T* y;                 // (samples, outputs)
  const T* label_noise;       // (B), standard deviations
  const T* gradient_noise;    // (B)
  const std::int64_t* seed;   // (B)
  const std::int64_t* cell;   // (B), 0 .. 2^32 - 1
  const std::int64_t* batch;  // (B), 0: all samples; null like all above if no replica has any
  SampleShape shape;
  std::int64_t first_step;  // number of the first step, which keys the random numbers
};

// Where the gradient of a replica comes from. A replica's own numbers decide, never its neighbours.
enum class GradientSource { gram, noisy_gram, samples };

template <typename T>
SYMFAST_SWEEP_INLINE GradientSource gradient_source(std::int64_t batch, T label_noise,
                                                    T gradient_noise) {
  if (batch > 0 || label_noise != T(0)) return GradientSource::samples;
  return gradient_noise != T(0) ? GradientSource::noisy_gram : GradientSource::gram;
}

// The random part of a CPU block: replicas of equal seed and batch size.
template <typename T>
struct SampleBlock {
  GradientSource source;
  SampleShape shape;
  const T* x;
  const T* y;
  std::int64_t batch;       // rows of a step
  bool draws;               // false: all samples in order
  T* batch_x;               // (batch, inputs), with minibatches only
  T* batch_y;               // (batch, outputs)
  T* scratch;               // (lanes / width, max(d, batch * outputs) + 3, width), vectors of width
  const T* label_noise;     // (lanes)
  const T* gradient_noise;  // (lanes)
  const std::int64_t* cell;           // (lanes)
  std::int64_t seed, step;            // number of the first step to come
  bool noisy_labels, noisy_gradient;  // does any lane have it
};

}  // namespace symfast
