// SPDX-License-Identifier: Apache-2.0
// Gradients in memory for the sweeps of product factors by SIMD lanes: from the Gram matrix or from
// rows of the data that all lanes share, with noise; for *_simd.cpp.
#pragma once
#include "draws_simd.h"
#include "factor_sweep_simd.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

// A group of vectors of a block over some steps.
template <typename T>
class Group {
 public:
  Group(const FactorBlock<T>& block, std::int64_t lane)
      : b_(block), s_(block.samples), lane_(lane), x_(s_.x), y_(s_.y) {
    const std::int64_t items = s_.shape.outputs * s_.batch;
    line_ = ((items > b_.d ? items : b_.d) + 3) * V;
    scratch_ = s_.scratch + lane / V * line_;
  }

  // step(block, first lane of a vector, number of the step in the call) steps every factor of it.
  template <typename Step>
  void advance(std::int64_t steps, const Step& step) {
    for (std::int64_t index = 0; index < steps; ++index) {
      form_gradients(s_.step + index);
      for (int k = 0; k < kGroup; ++k) step(b_, lane_ + k * V, index);
      T* const swapped = b_.weight;
      b_.weight = b_.next;
      b_.next = swapped;
    }
  }

 private:
  static constexpr std::int64_t L = kSweepLanes<T>, V = kLanes<T>;
  using Math = Arithmetic<Vec<T>>;

  T* gradient(std::int64_t i) const { return b_.gradient + i * L + lane_; }

  void form_gradients(std::int64_t step) {
    if (s_.source == GradientSource::samples) {
      if (s_.draws) gather(step);
      if (s_.noisy_labels) draw(RandomPurpose::kLabelNoise, step, s_.batch * s_.shape.outputs);
      for (std::int64_t o = 0; o < s_.shape.outputs; ++o) {
        each_rows(s_.batch, [&]<int R>(std::int64_t s) { form_residuals<R>(s, o); });
        each_rows(s_.shape.inputs, [&]<int R>(std::int64_t f) { sum_samples<R>(f, o); });
      }
    } else {
      each_rows(b_.d, [&]<int R>(std::int64_t i) {
        Vec<T> g[R][kGroup];
        gram_rows<R>(b_, i, lane_, g);
        SYMFAST_FACTOR_UNROLL
        for (int r = 0; r < R; ++r)
          for (int k = 0; k < kGroup; ++k) lanes(gradient(i + r) + k * V) = g[r][k];
      });
    }
    if (s_.noisy_gradient) add_noise(step);
  }

  // Rows of the minibatch side by side.
  void gather(std::int64_t step) {
    const SampleShape& shape = s_.shape;
    PhiloxWords<std::uint64_t> words{};
    for (std::int64_t s = 0; s < s_.batch; ++s) {
      if (s % 4 == 0)
        words = random_block(batch_stream(s_.seed, step), static_cast<std::uint64_t>(s / 4));
      const std::int64_t row =
          sample_of(static_cast<std::uint32_t>(words.word[s % 4]), shape.samples);
      copy(s_.batch_x + s * shape.inputs, s_.x + row * shape.inputs, shape.inputs);
      copy(s_.batch_y + s * shape.outputs, s_.y + row * shape.outputs, shape.outputs);
    }
    x_ = s_.batch_x;
    y_ = s_.batch_y;
  }

  static void copy(T* to, const T* from, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = from[i];
  }

  // `count` normal numbers for each vector, into its part of the scratch memory.
  void draw(RandomPurpose purpose, std::int64_t step, std::int64_t count) {
    for (int k = 0; k < kGroup; ++k)
      draw_noise(scratch_ + k * line_, s_.seed, s_.cell + lane_ + k * V, purpose, step, count);
  }

  // x_s . w - y_s - sigma z_s of R samples, in the place of z_s.
  template <int R>
  void form_residuals(std::int64_t s, std::int64_t o) {
    const SampleShape& shape = s_.shape;
    Vec<T> sum[R][kGroup];
    SYMFAST_FACTOR_UNROLL
    for (int r = 0; r < R; ++r)
      for (int k = 0; k < kGroup; ++k) {
        const std::int64_t item = (s + r) * shape.outputs + o;
        sum[r][k] = Vec<T>{} - y_[item];
        if (s_.noisy_labels)
          sum[r][k] = Math::multiply_add(-lanes(s_.label_noise + lane_ + k * V),
                                         lanes(scratch_ + k * line_ + item * V), sum[r][k]);
      }
    accumulate<R>(sum, b_.weight + o * shape.output_stride() * L + lane_,
                  {V, shape.feature_stride() * L}, x_ + s * shape.inputs, {shape.inputs, 1},
                  shape.inputs);
    SYMFAST_FACTOR_UNROLL
    for (int r = 0; r < R; ++r)
      for (int k = 0; k < kGroup; ++k)
        lanes(scratch_ + k * line_ + ((s + r) * shape.outputs + o) * V) = sum[r][k];
  }

  // The mean over the samples of their residual times each of R features.
  template <int R>
  void sum_samples(std::int64_t f, std::int64_t o) {
    const SampleShape& shape = s_.shape;
    Vec<T> sum[R][kGroup] = {};
    accumulate<R>(sum, scratch_ + o * V, {line_, shape.outputs * V}, x_ + f, {1, shape.inputs},
                  s_.batch);
    const T share = T(1) / static_cast<T>(s_.batch);
    SYMFAST_FACTOR_UNROLL
    for (int r = 0; r < R; ++r)
      for (int k = 0; k < kGroup; ++k)
        lanes(gradient((f + r) * shape.feature_stride() + o * shape.output_stride()) + k * V) =
            sum[r][k] * share;
  }

  void add_noise(std::int64_t step) {
    draw(RandomPurpose::kGradientNoise, step, b_.d);
    for (std::int64_t i = 0; i < b_.d; ++i)
      for (int k = 0; k < kGroup; ++k) {
        Vec<T>& g = lanes(gradient(i) + k * V);
        g = Math::multiply_add(lanes(s_.gradient_noise + lane_ + k * V),
                               lanes(scratch_ + k * line_ + i * V), g);
      }
  }

  FactorBlock<T> b_;
  const SampleBlock<T>& s_;
  const std::int64_t lane_;
  const T* x_;
  const T* y_;
  T* scratch_;
  std::int64_t line_;
};

// Calls body<depth, gated>(group of vectors) for all groups of a block.
template <typename T, typename Body>
void each_group(const FactorBlock<T>& b, const Body& body) {
  with_depth(b.depth, [&]<int D>() {
    for (std::int64_t lane = 0; lane < kSweepLanes<T>; lane += kWidth<T>) {
      Group<T> group(b, lane);
      if (D > 1 && b.group)
        body.template operator()<D, (D > 1)>(group);
      else
        body.template operator()<D, false>(group);
    }
  });
}

}  // namespace
}  // namespace SYMFAST_ISA
}  // namespace symfast
