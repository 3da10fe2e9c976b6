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

// Words of a weight in the table: addresses, size, and its first block in the grid.
enum FactorWord : int64_t {
  kWeightAt,
  kWeightGradientAt,
  kFactorsAt,   // (depth, size)
  kVelocityAt,  // (depth, size), 0 without momentum
  kWeightSize,
  kWeightBlock,
  kFactorWords
};

template <typename T>
struct FactorStepArguments {
  const int64_t* table;  // null: `words`
  int64_t count;
  Accumulate<T> lr, momentum, decay;
  int64_t words[kFactorItems * kFactorWords];

  SF_DEVICE int64_t word(int64_t item, FactorWord which) const {
    const int64_t at = item * kFactorWords + which;
    return table ? load_table(table + at) : words[at];
  }
};
static_assert(sizeof(FactorStepArguments<double>) <= 4000, "kernel arguments end at 4 KB");

// One weight as a thread sees it.
template <typename T>
struct FactorPlace {
  using A = Accumulate<T>;
  T* weight;
  const T* gradient;
  A *factors, *velocity;
  int64_t size;

  SF_DEVICE FactorPlace(const FactorStepArguments<T>& a, int64_t item)
      : weight(reinterpret_cast<T*>(a.word(item, kWeightAt))),
        gradient(reinterpret_cast<const T*>(a.word(item, kWeightGradientAt))),
        factors(reinterpret_cast<A*>(a.word(item, kFactorsAt))),
        velocity(reinterpret_cast<A*>(a.word(item, kVelocityAt))),
        size(a.word(item, kWeightSize)) {}
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

// V neighbours from element i on.
template <int D, bool kMomentum, int V, typename T>
SF_DEVICE void step_pack(const FactorStepArguments<T>& a, const FactorPlace<T>& at, int64_t i) {
  using A = Accumulate<T>;
  const Pack<T, V> g = load_pack<V>(at.gradient + i);
  A f[V][D], v[V][D] = {}, rates[D];
#pragma unroll
  for (int j = 0; j < D; ++j) {
    rates[j] = a.lr;
    const Pack<A, V> x = load_pack<V>(at.factors + j * at.size + i);
    Pack<A, V> y;
    if constexpr (kMomentum) y = load_pack<V>(at.velocity + j * at.size + i);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      f[e][j] = x.get(e);
      if constexpr (kMomentum) v[e][j] = y.get(e);
    }
  }
  Pack<T, V> w;
#pragma unroll
  for (int e = 0; e < V; ++e) {
    step_factors<D, kMomentum>(f[e], v[e], A(widen(g.get(e))), rates, a.momentum, a.decay);
    w.set(e, narrow<T>(product<D>(f[e])));
  }
#pragma unroll
  for (int j = 0; j < D; ++j) {
    Pack<A, V> x, y;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      x.set(e, f[e][j]);
      if constexpr (kMomentum) y.set(e, v[e][j]);
    }
    store_pack<V>(at.factors + j * at.size + i, x);
    if constexpr (kMomentum) store_pack<V>(at.velocity + j * at.size + i, y);
  }
  store_pack<V>(at.weight + i, w);
}

template <typename T, int D, bool kMomentum>
SF_KERNEL(kBlock, 2)
factor_step(SF_ARGUMENT FactorStepArguments<T> a) {
  constexpr int V = kStepPack<T>;
  constexpr int64_t kElements = int64_t{kBlock} * V * kFactorPacks;
  const auto block = static_cast<int64_t>(blockIdx.x);
  const int64_t item =
      item_of_block(a.count, block, [&](int64_t i) { return a.word(i, kWeightBlock); });
  const FactorPlace<T> at(a, item);
  const int64_t begin = (block - a.word(item, kWeightBlock)) * kElements;
  const int64_t end = begin + kElements < at.size ? begin + kElements : at.size;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const bool packed = at.size % V == 0 && aligned_pack(at.weight) && aligned_pack(at.gradient) &&
                      aligned_pack(at.factors) && aligned_pack(at.velocity);
  if (packed) {
    for (int64_t i = begin + thread * V; i < end; i += threads * V)
      step_pack<D, kMomentum, V>(a, at, i);
  } else {
    for (int64_t i = begin + thread; i < end; i += threads) step_pack<D, kMomentum, 1>(a, at, i);
  }
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
  for (int j = 0; j < (kGradient ? D : 1); ++j) store_pack<V>(a.outputs[j] + i, out[j]);
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
