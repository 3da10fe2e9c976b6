// SPDX-License-Identifier: Apache-2.0
// Hot loop of the replica sweep; compiled once per instruction set. A vector is one number of a
// block of replicas. Units are worked on in blocks small enough for the first cache: forward, their
// values and what they add to the outputs; backward, their errors, and gradients that are summed
// over the whole batch in registers and applied without being stored.
#include "replica.h"

#include "draws_simd.h"
#include "pack_simd.h"
#include "replica_tiles_simd.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

// One step of one block.
template <typename T, Optimizer kRule, bool kMomentum>
class Trainer {
 public:
  explicit Trainer(const ReplicaBlock<T>& block)
      : b_(block), shape_(block.model.shape), sigma_(rate(Rate::gradient_noise)) {
    rates_.decay = rate(Rate::decay);
    rates_.momentum = rate(Rate::momentum);
    rates_.beta2 = rate(Rate::beta2);
    rates_.epsilon = rate(Rate::epsilon);
  }

  void step(std::int64_t index, std::int64_t first_step) {
    set_rates(index, first_step + index);
    gather(first_step + index);
    for (std::int64_t j = 0; j < shape_.hidden; j += kUnitBlock) forward(j, units_from(j));
    form_errors(first_step + index);
    if (b_.gradient_noise)
      draw_noise(b_.noise, b_.seed, b_.cell, RandomPurpose::kGradientNoise, first_step + index,
                 shape_.parameters());
    for (std::int64_t o = 0; shape_.bias && o < shape_.outputs; ++o) step_output_bias(o);
    // The last units first: their values are still in the first cache.
    for (std::int64_t j = (shape_.hidden - 1) / kUnitBlock * kUnitBlock; j >= 0; j -= kUnitBlock)
      backward(j, units_from(j));
    if (b_.constraint != Constraint::none) constrain();
  }

 private:
  static constexpr std::int64_t L = kLanes<T>;
  using V = Vec<T>;
  using Math = Arithmetic<V>;

  V rate(Rate row) const { return lanes(b_.rates + static_cast<std::int64_t>(row) * L); }
  std::int64_t units_from(std::int64_t j) const {
    return shape_.hidden - j < kUnitBlock ? shape_.hidden - j : kUnitBlock;
  }
  T* active(std::int64_t j) const { return b_.active + j * b_.batch * L; }
  T* output(std::int64_t o) const { return b_.output + o * b_.batch * L; }
  std::int64_t weight2(std::int64_t o, std::int64_t j) const {
    return shape_.weight2() + o * shape_.hidden + j;
  }

  void set_rates(std::int64_t index, std::int64_t taken) {
    V lr = rate(Rate::lr);
    for (int l = 0; l < L; ++l) lr[l] *= b_.schedule[l][index];
    rates_.lr = lr;
    rates_.amount = lr * rate(Rate::strength);
    if constexpr (kRule == Optimizer::sgd) return;
    rates_.shrink = Math::multiply_add(-lr, rates_.decay, fill<V>(T(1)));
    for (int l = 0; l < L; ++l) {
      b_.power1[l] = next_power(b_.power1[l], static_cast<double>(rates_.momentum[l]), taken);
      b_.power2[l] = next_power(b_.power2[l], static_cast<double>(rates_.beta2[l]), taken);
      rates_.rate[l] = static_cast<T>(static_cast<double>(lr[l]) / (1 - b_.power1[l]));
      rates_.rescale[l] = static_cast<T>(1 / __builtin_sqrt(1 - b_.power2[l]));
    }
  }

  // Rows of the minibatch side by side. Once is enough for a batch of all samples.
  void gather(std::int64_t step) {
    if (b_.draws) {
      draw_rows(b_.seed, step, b_.samples, b_.batch,
                [&](std::int64_t s, std::int64_t row) SF_LAMBDA { copy_sample(s, row); });
    } else if (!gathered_) {
      gathered_ = true;
      for (std::int64_t s = 0; s < b_.batch; ++s) copy_sample(s, s);
    }
  }
  void copy_sample(std::int64_t s, std::int64_t row) {
    copy_numbers(b_.batch_x + s * shape_.inputs, b_.x + row * shape_.inputs, shape_.inputs);
    copy_numbers(b_.batch_y + s * shape_.outputs, b_.y + row * shape_.outputs, shape_.outputs);
  }

  // Values of `units` units from j on for the whole batch, and their part of every output.
  void forward(std::int64_t j, std::int64_t units) {
    tile(units, b_.batch, [&]<int R, int C>(std::int64_t r, std::int64_t s) SF_LAMBDA {
      V sum[R][C];
      each<R>([&](auto p) SF_LAMBDA {
        const V bias = shape_.bias ? lanes(b_.theta + (shape_.bias1() + j + r + p) * L) : V{};
        each<C>([&](auto q) SF_LAMBDA { sum[p][q] = bias; });
      });
      multiply<true>(sum, b_.theta + (j + r) * shape_.inputs * L, {shape_.inputs * L, L},
                     b_.batch_x + s * shape_.inputs, {shape_.inputs, 1}, shape_.inputs);
      const bool cuts = b_.model.activation == Activation::relu;
      each<R, C>([&](auto p, auto q) SF_LAMBDA {
        lanes(active(j + r + p) + (s + q) * L) =
            cuts ? Lanes<V>::larger(sum[p][q], V{}) : sum[p][q];
      });
    });
    if (b_.model.activation == Activation::tanh) {
      T* const values = active(j);
      std::int64_t i = 0;
      for (; i + kTanhPack <= units * b_.batch; i += kTanhPack) tanh_of_pack(values + i * L);
      for (; i < units * b_.batch; ++i) lanes(values + i * L) = tanh_of(lanes(values + i * L));
    }
    add_to_outputs(j, units);
  }

  void add_to_outputs(std::int64_t j, std::int64_t units) {
    tile(shape_.outputs, b_.batch, [&]<int R, int C>(std::int64_t o, std::int64_t s) SF_LAMBDA {
      V sum[R][C];
      each<R>([&](auto p) SF_LAMBDA {
        const V bias = shape_.bias ? lanes(b_.theta + (shape_.bias2() + o + p) * L) : V{};
        each<C>([&](auto q)
                    SF_LAMBDA { sum[p][q] = j == 0 ? bias : lanes(output(o + p) + (s + q) * L); });
      });
      multiply<false>(sum, b_.theta + weight2(o, j) * L, {shape_.hidden * L, L}, active(j) + s * L,
                      {L, b_.batch * L}, units);
      each<R, C>([&](auto p, auto q) SF_LAMBDA { lanes(output(o + p) + (s + q) * L) = sum[p][q]; });
    });
  }

  // Outputs become the derivatives of the mean loss with respect to them.
  void form_errors(std::int64_t step) {
    const bool noisy = b_.label_noise;
    if (noisy)
      draw_noise(b_.noise, b_.seed, b_.cell, RandomPurpose::kLabelNoise, step,
                 b_.batch * shape_.outputs);
    const V sigma = rate(Rate::label_noise);
    const bool mse = b_.model.loss == Loss::mse;
    const auto terms = static_cast<T>(mse ? b_.batch * shape_.outputs : b_.batch);
    const V weight = fill<V>((mse ? T(2) : T(1)) / terms);
    for (std::int64_t s = 0; s < b_.batch; ++s) {
      if (!mse) soften(s);
      for (std::int64_t o = 0; o < shape_.outputs; ++o) {
        V target = fill<V>(b_.batch_y[s * shape_.outputs + o]);
        if (noisy)
          target =
              Math::multiply_add(sigma, lanes(b_.noise + (s * shape_.outputs + o) * L), target);
        V& error = lanes(output(o) + s * L);
        error = (error - target) * weight;
      }
    }
  }

  // Outputs of sample s become probabilities.
  void soften(std::int64_t s) {
    V most = lanes(output(0) + s * L), sum{};
    for (std::int64_t o = 1; o < shape_.outputs; ++o) {
      const V value = lanes(output(o) + s * L);
      most = value > most ? value : most;
    }
    for (std::int64_t o = 0; o < shape_.outputs; ++o) {
      V& value = lanes(output(o) + s * L);
      value = exp_of(value - most);
      sum = sum + value;
    }
    for (std::int64_t o = 0; o < shape_.outputs; ++o) {
      V& value = lanes(output(o) + s * L);
      value = value / sum;
    }
  }

  void step_output_bias(std::int64_t o) {
    V sum[4] = {};  // one sum would wait for each addition
    std::int64_t s = 0;
    for (; s + 4 <= b_.batch; s += 4)
      each<4>([&](auto i) SF_LAMBDA { sum[i] = sum[i] + lanes(output(o) + (s + i) * L); });
    for (; s < b_.batch; ++s) sum[0] = sum[0] + lanes(output(o) + s * L);
    update(shape_.bias2() + o, (sum[0] + sum[1]) + (sum[2] + sum[3]));
  }

  void backward(std::int64_t j, std::int64_t units) {
    form_unit_errors(j, units);
    tile(shape_.outputs, units, [&]<int R, int C>(std::int64_t o, std::int64_t c) SF_LAMBDA {
      V sum[R][C] = {};
      multiply<false>(sum, output(o), {b_.batch * L, L}, active(j + c), {b_.batch * L, L},
                      b_.batch);
      each<R, C>([&](auto p, auto q) SF_LAMBDA { update(weight2(o + p, j + c + q), sum[p][q]); });
    });
    tile(units, shape_.inputs, [&]<int R, int C>(std::int64_t r, std::int64_t i) SF_LAMBDA {
      V sum[R][C] = {};
      multiply<true>(sum, b_.delta + r * b_.batch * L, {b_.batch * L, L}, b_.batch_x + i,
                     {1, shape_.inputs}, b_.batch);
      each<R, C>([&](auto p, auto q)
                     SF_LAMBDA { update((j + r + p) * shape_.inputs + i + q, sum[p][q]); });
    });
  }

  // Errors of the units, with the second layer as it was before this step; then their biases.
  void form_unit_errors(std::int64_t j, std::int64_t units) {
    cut<kTileRows>(units, [&]<int R>(std::int64_t r) SF_LAMBDA {
      V bias[R] = {};
      cut<4>(b_.batch, [&]<int C>(std::int64_t s) SF_LAMBDA {
        V sum[R][C] = {};
        multiply<false>(sum, b_.theta + weight2(0, j + r) * L, {L, shape_.hidden * L},
                        b_.output + s * L, {L, b_.batch * L}, shape_.outputs);
        each<R, C>([&](auto p, auto q) SF_LAMBDA {
          const V value = lanes(active(j + r + p) + (s + q) * L);
          const V error = slope(b_.model.activation, value, sum[p][q]);
          bias[p] = bias[p] + error;
          lanes(b_.delta + ((r + p) * b_.batch + s + q) * L) = error;
        });
      });
      if (shape_.bias)
        each<R>([&](auto p) SF_LAMBDA { update(shape_.bias1() + j + r + p, bias[p]); });
    });
  }

  __attribute__((always_inline)) void update(std::int64_t index, V gradient) {
    if (b_.gradient_noise)
      gradient = Math::multiply_add(sigma_, lanes(b_.noise + index * L), gradient);
    V& theta = lanes(b_.theta + index * L);
    if constexpr (kRule == Optimizer::sgd) {
      V unused;
      step_sgd<kMomentum>(rates_, gradient, theta,
                          kMomentum ? lanes(b_.first + index * L) : unused);
    } else {
      step_adam<kRule == Optimizer::adamw>(rates_, gradient, theta, lanes(b_.first + index * L),
                                           lanes(b_.second + index * L));
    }
  }

  // The mirrors of the hidden units, column by column of the unit matrix.
  void constrain() {
    struct Column {
      T* start;
      std::int64_t stride;
      V get(std::int64_t j) const { return lanes(start + j * stride); }
      void put(std::int64_t j, V value) const { lanes(start + j * stride) = value; }
    };
    for (std::int64_t c = 0; c < unit_columns(shape_); ++c) {
      const UnitColumn column = unit_column(shape_, c);
      constrain_column(b_.mirrors, shape_.hidden, b_.constraint, rates_.amount,
                       Column{b_.theta + column.base * L, column.stride * L});
    }
  }

  const ReplicaBlock<T>& b_;
  const ReplicaShape shape_;
  const V sigma_;
  StepRates<V> rates_{};
  bool gathered_ = false;
};

template <Optimizer kRule, bool kMomentum, typename T>
void train(const ReplicaBlock<T>& block, std::int64_t offset, std::int64_t first_step,
           std::int64_t steps) {
  Trainer<T, kRule, kMomentum> trainer(block);
  for (std::int64_t index = offset; index < offset + steps; ++index)
    trainer.step(index, first_step);
}

template <typename T>
void dispatch(const ReplicaBlock<T>& b, std::int64_t offset, std::int64_t first_step,
              std::int64_t steps) {
  if (b.model.rule == Optimizer::adam)
    return train<Optimizer::adam, true>(b, offset, first_step, steps);
  if (b.model.rule == Optimizer::adamw)
    return train<Optimizer::adamw, true>(b, offset, first_step, steps);
  if (b.momentum) return train<Optimizer::sgd, true>(b, offset, first_step, steps);
  train<Optimizer::sgd, false>(b, offset, first_step, steps);
}

}  // namespace

// Replicas of a block.
std::int64_t replica_lanes(std::int64_t bytes) { return kVectorBytes / bytes; }

// Steps first_step + offset .. + steps of every lane; schedules begin at first_step.
void train_replicas_f64(const ReplicaBlock<double>& block, std::int64_t offset,
                        std::int64_t first_step, std::int64_t steps) {
  dispatch(block, offset, first_step, steps);
}
void train_replicas_f32(const ReplicaBlock<float>& block, std::int64_t offset,
                        std::int64_t first_step, std::int64_t steps) {
  dispatch(block, offset, first_step, steps);
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
