// SPDX-License-Identifier: Apache-2.0
// CUDA replica sweep: one block a replica for all its steps, blocks never wait for each other.
// Weights and gradients are in shared memory where they fit (P <= 24,000 floats on an H100), else
// in global memory; a batch passes through shared memory in tiles of samples. Every sum is taken by
// one thread in the order of the CPU kernel.
#pragma once
#include "device.h"
#include "lanes.cuh"
#include "replica.h"
#include "replica_memory.cuh"

namespace symfast {

// One replica: what its threads know alike.
template <typename T, bool kShared>
struct Replica {
  const ReplicaArguments<T>& a;
  const ReplicaMemory<T, kShared> m;
  const ReplicaShape shape;
  const std::int64_t b, batch, cell;
  const std::uint64_t seed;
  const bool draws;

  SF_DEVICE Replica(const ReplicaArguments<T>& arguments, std::int64_t index)
      : a(arguments),
        m(arguments, index),
        shape(arguments.model.shape),
        b(index),
        batch(load_table(a.batch + b) > 0 ? load_table(a.batch + b) : a.samples),
        cell(load_table(a.cell + b)),
        seed(static_cast<std::uint64_t>(load_table(a.seed + b))),
        draws(load_table(a.batch + b) > 0) {}

  SF_DEVICE T rate(Rate row) const {
    return load_table(a.rates + static_cast<std::int64_t>(row) * a.replicas + b);
  }

  // Calls body(row, s) for every row and sample of a tile, spread over the threads.
  template <typename Body>
  SF_DEVICE void each(std::int64_t rows, std::int64_t samples, const Body& body) const {
    const auto count = static_cast<int>(rows * samples), width = static_cast<int>(samples);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
      body(i / width, i % width);
  }

  SF_DEVICE std::int64_t row_of(std::int64_t sample, std::int64_t step) const {
    return draws ? row_of_sample(seed, step, sample, a.samples) : sample;
  }

  SF_DEVICE void gather(std::int64_t start, std::int64_t samples, std::int64_t step) const {
    SF_SHARED(std::int64_t, rows, [kTileSamples]);
    if (threadIdx.x < samples) rows[threadIdx.x] = row_of(start + threadIdx.x, step);
    __syncthreads();
    each(shape.inputs, samples, [&](int i, int s) {
      m.x[i * kTileStride + s] = load_table(a.x + rows[s] * shape.inputs + i);
    });
    const T sigma = rate(Rate::label_noise);
    each(shape.outputs, samples, [&](int o, int s) {
      T target = load_table(a.y + rows[s] * shape.outputs + o);
      if (sigma != T(0))
        target = Arithmetic<T>::multiply_add(
            sigma, normal_of<T>(seed, kLabelNoise, cell, step, (start + s) * shape.outputs + o),
            target);
      m.target[o * kTileStride + s] = target;
    });
    __syncthreads();
  }

  SF_DEVICE void forward(std::int64_t samples) const {
    each(shape.hidden, samples, [&](int j, int s) {
      T z = shape.bias ? m.get(m.theta + shape.bias1() + j) : T(0);
      for (int i = 0; i < shape.inputs; ++i)
        z = Arithmetic<T>::multiply_add(m.get(m.theta + j * shape.inputs + i),
                                        m.x[i * kTileStride + s], z);
      if (a.model.activation == Activation::relu) z = z > T(0) ? z : T(0);
      if (a.model.activation == Activation::tanh) z = tanh_of(z);
      m.active[j * kTileStride + s] = z;
    });
    __syncthreads();
    each(shape.outputs, samples, [&](int o, int s) {
      T f = shape.bias ? m.get(m.theta + shape.bias2() + o) : T(0);
      for (int j = 0; j < shape.hidden; ++j)
        f = Arithmetic<T>::multiply_add(m.get(m.theta + shape.weight2() + o * shape.hidden + j),
                                        m.active[j * kTileStride + s], f);
      m.output[o * kTileStride + s] = f;
    });
    __syncthreads();
  }

  // Outputs of a sample become probabilities.
  SF_DEVICE void soften(std::int64_t samples) const {
    for (int s = static_cast<int>(threadIdx.x); s < samples; s += static_cast<int>(blockDim.x)) {
      T most = m.output[s], sum = 0;
      for (int o = 1; o < shape.outputs; ++o) {
        const T value = m.output[o * kTileStride + s];
        most = value > most ? value : most;
      }
      for (int o = 0; o < shape.outputs; ++o) {
        const T value = exp_of(m.output[o * kTileStride + s] - most);
        m.output[o * kTileStride + s] = value;
        sum = sum + value;
      }
      for (int o = 0; o < shape.outputs; ++o) {
        T& value = m.output[o * kTileStride + s];
        value = value / sum;
      }
    }
    __syncthreads();
  }

  // Errors of the outputs, then of the hidden units.
  SF_DEVICE void form_errors(std::int64_t samples) const {
    const bool mse = a.model.loss == Loss::mse;
    if (!mse) soften(samples);
    const T weight = (mse ? T(2) : T(1)) / static_cast<T>(mse ? batch * shape.outputs : batch);
    each(shape.outputs, samples, [&](int o, int s) {
      const int at = o * kTileStride + s;
      m.output[at] = (m.output[at] - m.target[at]) * weight;
    });
    __syncthreads();
    each(shape.hidden, samples, [&](int j, int s) {
      T sum = 0;
      for (int o = 0; o < shape.outputs; ++o)
        sum = Arithmetic<T>::multiply_add(m.get(m.theta + shape.weight2() + o * shape.hidden + j),
                                          m.output[o * kTileStride + s], sum);
      m.delta[j * kTileStride + s] = slope(a.model.activation, m.active[j * kTileStride + s], sum);
    });
    __syncthreads();
  }

  // What parameter p gets from a tile: errors[s] values[s], or errors[s] alone for a bias.
  struct Source {
    const T *errors, *values;
  };
  SF_DEVICE Source source(int p) const {
    const auto inputs = static_cast<int>(shape.inputs), hidden = static_cast<int>(shape.hidden);
    if (p < shape.bias1())
      return {m.delta + p / inputs * kTileStride, m.x + p % inputs * kTileStride};
    if (p < shape.weight2()) return {m.delta + (p - shape.bias1()) * kTileStride, nullptr};
    if (p >= shape.bias2()) return {m.output + (p - shape.bias2()) * kTileStride, nullptr};
    const int q = p - static_cast<int>(shape.weight2());
    return {m.output + q / hidden * kTileStride, m.active + q % hidden * kTileStride};
  }

  SF_DEVICE void add_gradients(std::int64_t samples, bool fresh) const {
    const auto parameters = static_cast<int>(shape.parameters());
    for (int p = static_cast<int>(threadIdx.x); p < parameters; p += static_cast<int>(blockDim.x)) {
      const Source from = source(p);
      T sum = fresh ? T(0) : m.get(m.gradient + p);
      for (int s = 0; s < samples; ++s)
        sum = from.values ? Arithmetic<T>::multiply_add(from.errors[s], from.values[s], sum)
                          : sum + from.errors[s];
      m.put(m.gradient + p, sum);
    }
    __syncthreads();
  }

  SF_DEVICE void update(const StepRates<T>& rates, std::int64_t step) const {
    const T sigma = rate(Rate::gradient_noise);
    const std::int64_t parameters = shape.parameters();
    for (std::int64_t p = threadIdx.x; p < parameters; p += blockDim.x) {
      T g = m.get(m.gradient + p), theta = m.get(m.theta + p);
      if (sigma != T(0))
        g = Arithmetic<T>::multiply_add(sigma, normal_of<T>(seed, kGradientNoise, cell, step, p),
                                        g);
      T first = load(a.first + b * parameters + p);
      if (a.model.rule == Optimizer::sgd) {
        step_sgd<true>(rates, g, theta, first);
        if (rates.momentum == T(0)) first = 0;
      } else {
        T second = load(a.second + b * parameters + p);
        if (a.model.rule == Optimizer::adam) step_adam<false>(rates, g, theta, first, second);
        if (a.model.rule == Optimizer::adamw) step_adam<true>(rates, g, theta, first, second);
        store(a.second + b * parameters + p, second);
      }
      store(a.first + b * parameters + p, first);
      m.put(m.theta + p, theta);
    }
    __syncthreads();
  }

  // An entry of the unit matrix; numbers of units from the caller's table stay within the replica.
  struct Column {
    const ReplicaMemory<T, kShared>& m;
    UnitColumn at;
    std::int64_t hidden;
    SF_DEVICE T* entry(std::int64_t j) const {
      return m.theta + at.base + index_within(j, hidden) * at.stride;
    }
    SF_DEVICE T get(std::int64_t j) const { return m.get(entry(j)); }
    SF_DEVICE void put(std::int64_t j, T value) const { m.put(entry(j), value); }
  };

  // The mirrors of the hidden units, a column of the unit matrix for each thread.
  SF_DEVICE void constrain(T amount) const {
    const auto f = static_cast<Constraint>(load_table(a.constraint + b));
    if (f == Constraint::none) return;
    for (std::int64_t c = threadIdx.x; c < unit_columns(shape); c += blockDim.x)
      constrain_column(a.mirrors, shape.hidden, f, amount,
                       Column{m, unit_column(shape, c), shape.hidden});
    __syncthreads();
  }

  SF_DEVICE void step(const StepRates<T>& rates, std::int64_t step) const {
    for (std::int64_t start = 0; start < batch; start += kTileSamples) {
      const std::int64_t left = batch - start;
      const std::int64_t samples = left < kTileSamples ? left : kTileSamples;
      gather(start, samples, step);
      forward(samples);
      form_errors(samples);
      add_gradients(samples, start == 0);
    }
    update(rates, step);
    constrain(rates.amount);
  }

  // Parameters from the caller's tensor, unless the kernel works in it.
  SF_DEVICE void read() const {
    for (std::int64_t p = threadIdx.x; kShared && p < shape.parameters(); p += blockDim.x)
      m.put(m.theta + p, load(a.theta + b * shape.parameters() + p));
    __syncthreads();
  }

  // What a replica that is lost leaves is not finite.
  SF_DEVICE void write(bool lost, std::int64_t taken) const {
    const std::int64_t parameters = shape.parameters();
    const T poison = lost ? T(0) / T(0) : T(0);
    for (std::int64_t p = threadIdx.x; p < parameters; p += blockDim.x) {
      const std::int64_t at = b * parameters + p;
      store(a.theta + at, m.get(m.theta + p) + poison);
      store(a.first + at, load(a.first + at) + poison);
      if (a.model.rule != Optimizer::sgd) store(a.second + at, load(a.second + at) + poison);
    }
    if (threadIdx.x != 0) return;
    const auto status = lost ? ReplicaStatus::diverged : ReplicaStatus::finished;
    store(a.status + b, static_cast<std::int64_t>(status));
    store(a.taken + b, taken);
  }

  // Whether a parameter is not finite, the same for all threads; all of them must call it.
  SF_DEVICE bool lost() const {
    SF_SHARED(int, of_warp, [kReplicaThreads / kWarp]);
    T poison = 0;
    for (std::int64_t p = threadIdx.x; p < shape.parameters(); p += blockDim.x)
      poison += T(0) * m.get(m.theta + p);
    const bool found = __ballot_sync(kAllLanes, poison != poison) != 0;
    if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = found;
    __syncthreads();
    bool any = false;
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    for (int warp = 0; warp < warps; ++warp) any = any || of_warp[warp] != 0;
    __syncthreads();
    return any;
  }
};

template <typename T, bool kShared>
SF_KERNEL(kReplicaThreads, 1)
train_replica(SF_ARGUMENT ReplicaArguments<T> a) {
  const std::int64_t b = blockIdx.x;
  if (load(a.status + b) != static_cast<std::int64_t>(ReplicaStatus::finished)) return;
  if (load(a.progress + 1) != 0) {  // looked at once: a launch is not interrupted
    __syncthreads();
    if (threadIdx.x == 0) store(a.status + b, static_cast<std::int64_t>(ReplicaStatus::cancelled));
    return;
  }
  __syncthreads();  // all threads have read the status
  const Replica<T, kShared> replica(a, b);
  replica.read();
  StepRates<T> rates{};
  rates.decay = replica.rate(Rate::decay);
  rates.momentum = replica.rate(Rate::momentum);
  rates.beta2 = replica.rate(Rate::beta2);
  rates.epsilon = replica.rate(Rate::epsilon);
  double power1 = 1, power2 = 1;
  if (a.model.rule != Optimizer::sgd) {
    power1 = power_after(static_cast<double>(rates.momentum), a.first_step);
    power2 = power_after(static_cast<double>(rates.beta2), a.first_step);
  }
  const std::int64_t kind = index_within(load_table(a.kind + b), a.kinds);
  std::int64_t taken = a.first_step;
  bool lost = false;
  for (std::int64_t done = 0; done < a.steps && !lost; ++done) {
    const T lr = replica.rate(Rate::lr) * load_table(a.schedule + kind * a.steps + done);
    rates.amount = lr * replica.rate(Rate::strength);
    set_rates(rates, lr, a.model.rule, taken, power1, power2);
    replica.step(rates, taken);
    ++taken;
    if (taken % kLookEvery == 0) lost = replica.lost();
  }
  replica.write(lost, taken);
}

// progress[0] += amount: a launch reports once, at its end.
SF_KERNEL(kWarp, 1)
report_replicas(std::int64_t* progress, std::int64_t amount) {
  if (threadIdx.x == 0 && load(progress + 1) == 0) store(progress, load(progress) + amount);
}

}  // namespace symfast
