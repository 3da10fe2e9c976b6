// SPDX-License-Identifier: Apache-2.0
// CUDA sweep of product factors with minibatches or noise: one block a replica, as sweep_by_block.
// A batch passes in tiles of samples whose residuals are in shared memory; data are read from L2.
// Every sum is taken by one thread in the order of the CPU kernel.
#pragma once
#include "draws.cuh"
#include "factor_sweep.cuh"

namespace symfast {

constexpr int kSampleBlock = 128;
constexpr int kSampleTile = 32;       // at most so many samples in a tile,
constexpr int64_t kTileItems = 1024;  // of so many residuals, unless one sample has more

SYMFAST_SWEEP_INLINE int64_t samples_of_tile(int64_t outputs) {
  const int64_t fitting = kTileItems / outputs;
  return fitting < 1 ? 1 : fitting > kSampleTile ? kSampleTile : fitting;
}

// The random part of one replica: what its threads know alike.
template <typename T>
struct RandomReplica {
  const SweepArguments<T>& a;
  const int64_t b, cell;
  const uint64_t seed;
  const T label_noise, gradient_noise;
  const bool draws, samples;
  const int64_t batch;
  T* residual;  // of a tile

  SF_DEVICE RandomReplica(const SweepArguments<T>& arguments, int64_t index, T* tile)
      : a(arguments),
        b(index),
        cell(load_table(a.samples.cell + b)),
        seed(static_cast<uint64_t>(load_table(a.samples.seed + b))),
        label_noise(load_table(a.samples.label_noise + b)),
        gradient_noise(load_table(a.samples.gradient_noise + b)),
        draws(load_table(a.samples.batch + b) > 0),
        samples(source_of(a, b) == GradientSource::samples),
        batch(draws ? load_table(a.samples.batch + b) : a.samples.shape.samples),
        residual(tile) {}

  // x_s . w - y_s - sigma z_s of one output of the row; z_s is number `item` of the step.
  SF_DEVICE T residual_of(const T* weight, int64_t row, int64_t output, int64_t item,
                          int64_t step) const {
    const SampleShape& shape = a.samples.shape;
    T sum = -load_table(a.samples.y + row * shape.outputs + output);
    if (label_noise != T(0))
      sum = Arithmetic<T>::multiply_add(-label_noise,
                                        normal_of<T>(seed, kLabelNoise, cell, step, item), sum);
    const T* const x = a.samples.x + row * shape.inputs;
    for (int64_t f = 0; f < shape.inputs; ++f)
      sum = Arithmetic<T>::multiply_add(
          weight[f * shape.feature_stride() + output * shape.output_stride()], load_table(x + f),
          sum);
    return sum;
  }

  // Adds a tile of samples to the gradient.
  SF_DEVICE void add_tile(T* gradient, const int64_t* rows, int64_t count, bool fresh) const {
    const SampleShape& shape = a.samples.shape;
    const auto inputs = static_cast<int>(shape.inputs), outputs = static_cast<int>(shape.outputs);
    for (int i = static_cast<int>(threadIdx.x); i < a.d; i += static_cast<int>(blockDim.x)) {
      const int feature = shape.by_output ? i % inputs : i / outputs;
      const int output = shape.by_output ? i / inputs : i % outputs;
      T sum = fresh ? T(0) : gradient[i];
      for (int64_t s = 0; s < count; ++s)
        sum =
            Arithmetic<T>::multiply_add(residual[s * outputs + output],
                                        load_table(a.samples.x + rows[s] * inputs + feature), sum);
      gradient[i] = sum;
    }
    __syncthreads();
  }

  SF_DEVICE void sum_samples(const T* weight, T* gradient, int64_t step) const {
    SF_SHARED(int64_t, rows, [kSampleTile]);
    const SampleShape& shape = a.samples.shape;
    const int64_t tile = samples_of_tile(shape.outputs);
    for (int64_t start = 0; start < batch; start += tile) {
      const int64_t count = batch - start < tile ? batch - start : tile;
      const int64_t mine = start + threadIdx.x;
      if (threadIdx.x < count)
        rows[threadIdx.x] = draws ? row_of_sample(seed, step, mine, shape.samples) : mine;
      __syncthreads();
      for (int64_t i = threadIdx.x; i < count * shape.outputs; i += blockDim.x)
        residual[i] = residual_of(weight, rows[i / shape.outputs], i % shape.outputs,
                                  start * shape.outputs + i, step);
      __syncthreads();
      add_tile(gradient, rows, count, start == 0);
    }
  }

  // Gradients of the step, noise and all, by the thread that steps the coordinate.
  SF_DEVICE void form_gradients(const T* weight, T* gradient, int64_t step) const {
    if (samples) sum_samples(weight, gradient, step);
    const T share = T(1) / static_cast<T>(batch);
    for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x) {
      T g = samples ? gradient[i] * share : gradient_of(a, i, weight);
      if (gradient_noise != T(0))
        g = Arithmetic<T>::multiply_add(gradient_noise,
                                        normal_of<T>(seed, kGradientNoise, cell, step, i), g);
      gradient[i] = g;
    }
  }
};

template <typename T, int D>
SF_KERNEL(kSampleBlock, 1)
sweep_by_samples(SF_ARGUMENT SweepArguments<T> a) {
  SF_DYNAMIC_SHARED(memory);
  const int64_t b = blockIdx.x;
  if (source_of(a, b) == GradientSource::gram) return;
  BlockWeights<T> weights(reinterpret_cast<T*>(memory), a.d);
  const RandomReplica<T> replica(a, b, weights.gradient + a.d);
  sweep_replica<T, D>(a, b, weights, [&](BlockWeights<T>& w, int64_t index) {
    const StepFactors<T> factors = factors_of(a, b, index);
    replica.form_gradients(w.weight, w.gradient, a.samples.first_step + index);
    keep_own(a, b, w);
    __syncthreads();
    if (a.group) return step_gates<T, D>(a, b, factors, w);
    for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x) {
      Coordinate<T, D> c;
      read_scaled(a, b, i, factors, c);
      w.next[i] =
          step_coordinate<D>(c.factor, c.velocity, w.gradient[i], c.lr, c.momentum, c.decay);
      write_factors(a, b, i, c);
    }
  });
}

}  // namespace symfast
