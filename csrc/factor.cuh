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

struct FactorStepItem {
  void* weight;
  const void* gradient;
  void* factors;   // (depth, size)
  void* velocity;  // (depth, size), unused without momentum
  int64_t size;
  int64_t first_block;  // of this item in the grid
};

template <typename T>
struct FactorStepArguments {
  FactorStepItem items[kFactorItems];
  int count;
  Accumulate<T> lr, momentum, decay;
};
static_assert(sizeof(FactorStepArguments<double>) <= 4000, "kernel arguments end at 4 KB");

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

// V neighbours from element i on.
template <int D, bool kMomentum, int V, typename T>
SF_DEVICE void step_pack(const FactorStepArguments<T>& a, const FactorStepItem& item, int64_t i) {
  using A = Accumulate<T>;
  A* factors = static_cast<A*>(item.factors) + i;
  A* velocities = static_cast<A*>(item.velocity) + i;
  T* weight = static_cast<T*>(item.weight) + i;
  const T* gradient = static_cast<const T*>(item.gradient) + i;
  A f[V][D], v[V][D] = {};
  Pack<T, V> w, g = load_pack<V>(gradient);
  constexpr int P = V == 1 ? 1 : kPack<A>;  // half weights have twice the numbers of a pack
#pragma unroll
  for (int j = 0; j < D; ++j) {
#pragma unroll
    for (int s = 0; s < V; s += P) {
      const Pack<A, P> x = load_pack<P>(factors + j * item.size + s);
      Pack<A, P> y;
      if (kMomentum) y = load_pack<P>(velocities + j * item.size + s);
#pragma unroll
      for (int e = 0; e < P; ++e) {
        f[s + e][j] = x.get(e);
        if (kMomentum) v[s + e][j] = y.get(e);
      }
    }
  }
  A rates[D];
#pragma unroll
  for (int j = 0; j < D; ++j) rates[j] = a.lr;
#pragma unroll
  for (int e = 0; e < V; ++e) {
    step_factors<D, kMomentum>(f[e], v[e], widen(g.get(e)), rates, a.momentum, a.decay);
    w.set(e, narrow<T>(product<D>(f[e])));
  }
#pragma unroll
  for (int j = 0; j < D; ++j) {
#pragma unroll
    for (int s = 0; s < V; s += P) {
      Pack<A, P> x, y;
#pragma unroll
      for (int e = 0; e < P; ++e) {
        x.set(e, f[s + e][j]);
        if (kMomentum) y.set(e, v[s + e][j]);
      }
      store_pack<P>(factors + j * item.size + s, x);
      if (kMomentum) store_pack<P>(velocities + j * item.size + s, y);
    }
  }
  store_pack<V>(weight, w);
}

// Half weights go by eight numbers, which would spill at depth 6 with momentum: by four there is
// no pack of theirs, so deep factors of half weights go one by one.
template <typename T, int D, bool kMomentum>
constexpr int kStepPack = (sizeof(T) == 2 && D * (kMomentum ? 2 : 1) > 4) ? 1 : kPack<T>;

template <typename T, int D, bool kMomentum>
SF_KERNEL(kBlock, 2)
factor_step(SF_ARGUMENT FactorStepArguments<T> a) {
  using A = Accumulate<T>;
  constexpr int V = kStepPack<T, D, kMomentum>;
  int at = 0;
  while (at + 1 < a.count && a.items[at + 1].first_block <= blockIdx.x) ++at;
  const FactorStepItem& item = a.items[at];
  const int64_t block = blockIdx.x - item.first_block;
  const int64_t begin = block * (kBlock * V * kFactorPacks);
  const int64_t rest = item.size - begin;
  const int64_t end = begin + (rest < kBlock * V * kFactorPacks ? rest : kBlock * V * kFactorPacks);
  const bool packed = V > 1 && item.size % V == 0 &&
                      aligned_pack(static_cast<const T*>(item.weight)) &&
                      aligned_pack(static_cast<const T*>(item.gradient)) &&
                      aligned_pack(static_cast<const A*>(item.factors)) &&
                      aligned_pack(static_cast<const A*>(item.velocity));
  if (packed) {
    for (int64_t i = begin + threadIdx.x * V; i < end; i += kBlock * V)
      step_pack<D, kMomentum, V>(a, item, i);
  } else {
    for (int64_t i = begin + threadIdx.x; i < end; i += kBlock)
      step_pack<D, kMomentum, 1>(a, item, i);
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
  bool packed = a.size % V == 0;
#pragma unroll
  for (int j = 0; j < D; ++j) packed = packed && aligned_pack(a.factors[j]);
  if (kGradient) packed = packed && aligned_pack(a.gradient);
#pragma unroll
  for (int j = 0; j < (kGradient ? D : 1); ++j) packed = packed && aligned_pack(a.outputs[j]);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * (kBlock * V);
  const int64_t end = begin + kBlock * V < a.size ? begin + kBlock * V : a.size;
  if (packed) {
    const int64_t i = begin + threadIdx.x * V;
    if (i < end) multiply_pack<D, kGradient, V>(a, i);
  } else {
    for (int64_t i = begin + threadIdx.x; i < end; i += kBlock)
      multiply_pack<D, kGradient, 1>(a, i);
  }
}

}  // namespace symfast
