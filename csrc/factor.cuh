// SPDX-License-Identifier: Apache-2.0
// Product factors on CUDA: products, their gradients, and whole steps. A thread takes 16 bytes of
// every tensor where they are aligned, else one number; elements never meet, so nothing is shared.
#pragma once
#include "device.h"
#include "factor.h"
#include "lanes.cuh"

namespace symfast {

// A step's weights travel by value: one launch for many small ones, no table in device memory.
constexpr int kFactorItems = 48;
// Packs a thread does: enough blocks for a device at a million weights, few enough to pay a start.
constexpr int kFactorPacks = 2;

// Words of a weight in the table: addresses, size, its first block in the grid, and how it steps.
enum FactorWord : int64_t {
  kWeightAt,
  kWeightGradientAt,
  kFactorsAt,   // (depth, size)
  kVelocityAt,  // (depth, size), 0 without momentum
  kWeightSize,
  kWeightBlock,
  kWeightDepth,
  kWeightRow,  // of the settings
  kFactorWords
};

struct FactorStepArguments {
  const int64_t* table;  // null: `words`
  int64_t count;
  const double* settings;  // (rows, kFactorSettings), on the device: a captured graph follows them
  int64_t words[kFactorItems * kFactorWords];

  SF_DEVICE int64_t word(int64_t item, FactorWord which) const {
    const int64_t at = item * kFactorWords + which;
    return table ? load_table(table + at) : words[at];
  }
};
static_assert(sizeof(FactorStepArguments) <= 4000, "kernel arguments end at 4 KB");

// One weight as a thread sees it: elements [begin, end), and the numbers of its step.
template <typename T>
struct FactorPlace {
  using A = Accumulate<T>;
  T* weight;
  const T* gradient;
  A *factors, *velocity;
  int64_t size, begin, end;
  A lr, momentum, decay;

  SF_DEVICE FactorPlace(const FactorStepArguments& a, int64_t item, int64_t first, int64_t elements)
      : weight(reinterpret_cast<T*>(a.word(item, kWeightAt))),
        gradient(reinterpret_cast<const T*>(a.word(item, kWeightGradientAt))),
        factors(reinterpret_cast<A*>(a.word(item, kFactorsAt))),
        velocity(reinterpret_cast<A*>(a.word(item, kVelocityAt))),
        size(a.word(item, kWeightSize)),
        begin(first),
        end(first + elements < size ? first + elements : size) {
    const double* row = a.settings + a.word(item, kWeightRow) * kFactorSettings;
    lr = static_cast<A>(load_table(row + kFactorLr));
    momentum = static_cast<A>(load_table(row + kFactorMomentum));
    decay = static_cast<A>(load_table(row + kFactorDecay));
  }
};

template <typename T, int D>
struct FactorArguments {
  const T* factors[D];
  const T* gradient;
  T* outputs[D];  // one for the product
  int64_t size;
};

template <typename T>
SF_DEVICE bool aligned_pack(const T* p) {
  return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}

// Numbers of a weight a thread takes at a time: 16 bytes of its factors, which are wider than half
// weights and most of what moves.
template <typename T>
constexpr int kStepPack = kPack<Accumulate<T>>;

// V neighbours of a weight with all that a step needs of them, in registers.
template <int D, bool kMomentum, int V, typename T>
struct StepPack {
  using A = Accumulate<T>;
  Pack<T, V> gradient;
  Pack<A, V> factor[D], velocity[D] = {};

  SF_DEVICE void load_from(const FactorPlace<T>& at, int64_t i) {
    gradient = load_pack<V>(at.gradient + i);
#pragma unroll
    for (int j = 0; j < D; ++j) {
      factor[j] = load_pack<V>(at.factors + j * at.size + i);
      if constexpr (kMomentum) velocity[j] = load_pack<V>(at.velocity + j * at.size + i);
    }
  }

  // Steps element e of the pack and returns its new weight.
  SF_DEVICE T step(const FactorPlace<T>& at, int e) {
    A x[D], y[D], rates[D];
#pragma unroll
    for (int j = 0; j < D; ++j) {
      x[j] = factor[j].get(e);
      y[j] = velocity[j].get(e);
      rates[j] = at.lr;
    }
    step_factors<D, kMomentum>(x, y, A(widen(gradient.get(e))), rates, at.momentum, at.decay);
#pragma unroll
    for (int j = 0; j < D; ++j) {
      factor[j].set(e, x[j]);
      if constexpr (kMomentum) velocity[j].set(e, y[j]);
    }
    return narrow<T>(product<D>(x));
  }

  SF_DEVICE void step_and_store(const FactorPlace<T>& at, int64_t i) {
    Pack<T, V> weight;
#pragma unroll
    for (int e = 0; e < V; ++e) weight.set(e, step(at, e));
#pragma unroll
    for (int j = 0; j < D; ++j) {
      store_pack<V>(at.factors + j * at.size + i, factor[j]);
      if constexpr (kMomentum) store_pack<V>(at.velocity + j * at.size + i, velocity[j]);
    }
    store_new_pack<V>(at.weight + i, weight);
  }
};

// U packs of V neighbours, `stride` apart, from element i on, all loaded before the first is used.
template <int D, bool kMomentum, int V, int U, typename T>
SF_DEVICE void step_packs(const FactorPlace<T>& at, int64_t i, int64_t stride) {
  StepPack<D, kMomentum, V, T> packs[U];
#pragma unroll
  for (int u = 0; u < U; ++u) packs[u].load_from(at, i + u * stride);
#pragma unroll
  for (int u = 0; u < U; ++u) packs[u].step_and_store(at, i + u * stride);
}

// Packs on their way at once, so that factors and velocities alone are four loads or more.
template <int D, bool kMomentum>
constexpr int kStepAhead = D * (kMomentum ? 2 : 1) >= 4 ? 1 : 2;

// All elements of the place, by packs where everything is aligned.
template <int D, bool kMomentum, typename T>
SF_DEVICE void step_walk(const FactorPlace<T>& at) {
  constexpr int V = kStepPack<T>, U = kStepAhead<D, kMomentum>;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const bool packed = at.size % V == 0 && aligned_pack(at.weight) && aligned_pack(at.gradient) &&
                      aligned_pack(at.factors) && aligned_pack(at.velocity);
  if (packed) {
    const int64_t stride = threads * V;
    int64_t i = at.begin + thread * V;
#pragma unroll 1
    for (; i + (U - 1) * stride < at.end; i += U * stride) {
      step_packs<D, kMomentum, V, U>(at, i, stride);
    }
    if constexpr (U > 1) {
      for (; i < at.end; i += stride) step_packs<D, kMomentum, V, 1>(at, i, stride);
    }
  } else {
#pragma unroll 1
    for (int64_t i = at.begin + thread; i < at.end; i += threads) {
      step_packs<D, kMomentum, 1, 1>(at, i, 1);
    }
  }
}

template <int D, typename T>
SF_DEVICE void step_depth(const FactorPlace<T>& at, int64_t depth) {
  if (depth == D) {
    return at.velocity ? step_walk<D, true>(at) : step_walk<D, false>(at);
  }
  if constexpr (D < kMaxDepth) step_depth<D + 1>(at, depth);
}

// Weights of all depths, with momentum and without, in one launch: a block works on one weight.
template <typename T>
SF_KERNEL(kBlock, 2)
factor_step(SF_ARGUMENT FactorStepArguments a) {
  constexpr int64_t kElements = int64_t{kBlock} * kStepPack<T> * kFactorPacks;
  const auto block = static_cast<int64_t>(blockIdx.x);
  const int64_t item =
      item_of_block(a.count, block, [&](int64_t i) { return a.word(i, kWeightBlock); });
  const int64_t begin = (block - a.word(item, kWeightBlock)) * kElements;
  step_depth<2>(FactorPlace<T>(a, item, begin, kElements), a.word(item, kWeightDepth));
}

// Without a gradient the product of the factors, with one the gradient of each.
template <int D, bool kGradient, int V, typename T>
SF_DEVICE void multiply_pack(const FactorArguments<T, D>& a, int64_t i) {
  using A = Accumulate<T>;
  Pack<T, V> in[D], out[D], g;
#pragma unroll
  for (int j = 0; j < D; ++j) in[j] = load_pack<V>(a.factors[j] + i);
  if (kGradient) g = load_pack<V>(a.gradient + i);
#pragma unroll
  for (int e = 0; e < V; ++e) {
    A f[D];
#pragma unroll
    for (int j = 0; j < D; ++j) f[j] = widen(in[j].get(e));
    if constexpr (kGradient) {
      A others[D];
      leave_one_out<D>(f, others);
#pragma unroll
      for (int j = 0; j < D; ++j) out[j].set(e, narrow<T>(widen(g.get(e)) * others[j]));
    } else {
      out[0].set(e, narrow<T>(product<D>(f)));
    }
  }
#pragma unroll
  for (int j = 0; j < (kGradient ? D : 1); ++j) store_new_pack<V>(a.outputs[j] + i, out[j]);
}

template <typename T, int D, bool kGradient>
SF_KERNEL(kBlock, 2)
factor_multiply(SF_ARGUMENT FactorArguments<T, D> a) {
  constexpr int V = kPack<T>;
  bool packed = true;
#pragma unroll
  for (int j = 0; j < D; ++j) packed = packed && aligned_pack(a.factors[j]);
  if (kGradient) packed = packed && aligned_pack(a.gradient);
#pragma unroll
  for (int j = 0; j < (kGradient ? D : 1); ++j) packed = packed && aligned_pack(a.outputs[j]);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * (kBlock * V);
  const int64_t end = begin + kBlock * V < a.size ? begin + kBlock * V : a.size;
  const int64_t tail = packed ? begin + (end - begin) / V * V : begin;
  for (int64_t i = begin + thread * V; i < tail; i += threads * V)
    multiply_pack<D, kGradient, V>(a, i);
  for (int64_t i = tail + thread; i < end; i += threads) multiply_pack<D, kGradient, 1>(a, i);
}

}  // namespace symfast
