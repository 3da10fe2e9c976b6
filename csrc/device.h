// SPDX-License-Identifier: Apache-2.0
// What a kernel body may use of CUDA. nvcc gives it real meaning; with SYMFAST_EMULATOR the same
// names come from tests/emulation/emulator.h and the bodies run on the CPU, every access checked.
//   SF_KERNEL(threads, blocks)  a kernel: most threads of a block, blocks that an SM has room for
//   SF_SHARED(T, name, [n])     static shared memory
//   SF_DYNAMIC_SHARED(name)     bytes, aligned to 16
//   load, store, load_pack, store_pack, store_new_pack, load_pack_where, store_new_pack_where,
//   load_table, load_fresh, load_signal, store_signal, fetch_add, compare_and_swap
//                               the only ways to global memory
//   back_off                    in a loop that waits for another block
#pragma once
#include <cstdint>
#include <cstring>

#include "plan.h"

#if defined(SYMFAST_EMULATOR)
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define SF_DEVICE __device__ __forceinline__
#define SF_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define SF_ARGUMENT __grid_constant__ const
#define SF_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define SF_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace symfast {

using BFloat16 = __nv_bfloat16;
using Float16 = __half;

// V neighbours in memory, moved by one access: V = 1, or V = kPack<T>, 16 bytes; of half types also
// 8 bytes, for use beside float numbers.
template <typename T>
constexpr int kPack = 16 / sizeof(T);
template <typename T, int V>
struct alignas(V * sizeof(T)) Pack {
  static_assert(V == 1 || V == kPack<T>);
  T lane[V];

  SF_DEVICE T get(int v) const { return lane[v]; }
  SF_DEVICE void set(int v, T value) { lane[v] = value; }
};

// Two 16-bit numbers a register, also while they wait.
template <typename T, int V>
  requires(sizeof(T) == 2 && V > 1)
struct alignas(V * 2) Pack<T, V> {
  static_assert(V == 4 || V == 8);
  uint32_t pair[V / 2];

  SF_DEVICE T get(int v) const {
    const auto bits = static_cast<uint16_t>(pair[v / 2] >> (v % 2 * 16));
    T value;
    memcpy(&value, &bits, 2);
    return value;
  }
  SF_DEVICE void set(int v, T value) {
    uint16_t bits;
    memcpy(&bits, &value, 2);
    const uint32_t keep = v % 2 ? 0xffffu : 0xffff0000u;
    pair[v / 2] = (pair[v / 2] & keep) | (uint32_t{bits} << (v % 2 * 16));
  }
};

#if !defined(SYMFAST_EMULATOR)
// Pointers also reach threads through shared memory; without the hint those accesses are generic.
template <typename T>
SF_DEVICE T load(const T* p) {
  __builtin_assume(__isGlobal(p));
  return *p;
}

template <typename T>
SF_DEVICE void store(T* p, T value) {
  __builtin_assume(__isGlobal(p));
  *p = value;
}

template <int V, typename T>
SF_DEVICE Pack<T, V> load_pack(const T* p) {
  __builtin_assume(__isGlobal(p));
  if constexpr (V == 1) {
    return Pack<T, 1>{{*p}};
  } else if constexpr (sizeof(Pack<T, V>) == 8) {
    const uint2 raw = *reinterpret_cast<const uint2*>(p);
    Pack<T, V> value;
    memcpy(&value, &raw, 8);
    return value;
  } else {
    const uint4 raw = *reinterpret_cast<const uint4*>(p);
    Pack<T, V> value;
    memcpy(&value, &raw, 16);
    return value;
  }
}

template <int V, typename T>
SF_DEVICE void store_pack(T* p, const Pack<T, V>& value) {
  __builtin_assume(__isGlobal(p));
  if constexpr (V == 1) {
    *p = value.lane[0];
  } else if constexpr (sizeof(value) == 8) {
    uint2 raw;
    memcpy(&raw, &value, 8);
    *reinterpret_cast<uint2*>(p) = raw;
  } else if constexpr (sizeof(T) == 8) {  // by uint4, nvcc stores two halves
    *reinterpret_cast<double2*>(p) = make_double2(value.lane[0], value.lane[1]);
  } else {
    uint4 raw;
    memcpy(&raw, &value, 16);
    *reinterpret_cast<uint4*>(p) = raw;
  }
}

// As store_pack, for memory that this thread has not loaded from: there nvcc splits a plain store
// of a pack for sm_80 and sm_90, of which only loads show the alignment.
template <int V, typename T>
SF_DEVICE void store_new_pack(T* p, const Pack<T, V>& value) {
  __builtin_assume(__isGlobal(p));
  if constexpr (sizeof(value) == 16) {
    uint4 raw;
    memcpy(&raw, &value, 16);
    __stwb(reinterpret_cast<uint4*>(p), raw);
  } else if constexpr (sizeof(value) == 8 && V > 1) {
    uint2 raw;
    memcpy(&raw, &value, 8);
    __stwb(reinterpret_cast<uint2*>(p), raw);
  } else {
    store_pack<V>(p, value);
  }
}

// A lane that has nothing there sits the access out.
template <int V, typename T>
SF_DEVICE Pack<T, V> load_pack_where(bool here, const T* p) {
  Pack<T, V> value{};
  if (here) value = load_pack<V>(p);
  return value;
}

template <int V, typename T>
SF_DEVICE void store_new_pack_where(bool here, T* p, const Pack<T, V>& value) {
  if (here) store_new_pack<V>(p, value);
}

// Memory that no kernel of this launch writes.
template <typename T>
SF_DEVICE T load_table(const T* p) {
  return __ldg(p);
}

// Memory that another block of this launch may have written, before a signal that this one has
// seen: from the cache that all blocks share.
template <typename T>
SF_DEVICE T load_fresh(const T* p) {
  __builtin_assume(__isGlobal(p));
  return __ldcg(p);
}

// Words that blocks of one launch tell each other by, with __threadfence. volatile: in PTX, strong
// (relaxed) accesses of the widest scope, whole words, neither repeated nor left out.
SF_DEVICE int64_t load_signal(const int64_t* p) {
  __builtin_assume(__isGlobal(p));
  return *const_cast<const volatile int64_t*>(p);
}
SF_DEVICE void store_signal(int64_t* p, int64_t value) {
  __builtin_assume(__isGlobal(p));
  *const_cast<volatile int64_t*>(p) = value;
}

// Atomic and relaxed; what the word was before.
SF_DEVICE int64_t fetch_add(int64_t* p, int64_t n) {
  __builtin_assume(__isGlobal(p));
  using Word = unsigned long long;
  return static_cast<int64_t>(atomicAdd(reinterpret_cast<Word*>(p), static_cast<Word>(n)));
}
SF_DEVICE void compare_and_swap(int64_t* p, int64_t from, int64_t to) {
  __builtin_assume(__isGlobal(p));
  using Word = unsigned long long;
  atomicCAS(reinterpret_cast<Word*>(p), static_cast<Word>(from), static_cast<Word>(to));
}

// Leaves the memory system alone for a while.
SF_DEVICE void back_off() { __nanosleep(100); }
#endif

// An amount of a verb; one that this launch has found is not read as a table.
template <Verb verb, typename A>
SF_DEVICE A load_amount(const A* p) {
  if constexpr (verb == kShrinkFound) {
    return load(p);
  } else {
    return load_table(p);
  }
}

// An index from a caller's table, kept within 0 .. count - 1: on a GPU no table is looked at
// before.
SF_DEVICE int64_t index_within(int64_t index, int64_t count) {
  return index < 0 ? 0 : index < count ? index : count - 1;
}

// The type sums are kept in: float for half types.
template <typename T>
struct AccumulateOf {
  using type = float;
};
template <>
struct AccumulateOf<double> {
  using type = double;
};
template <typename T>
using Accumulate = typename AccumulateOf<T>::type;

SF_DEVICE double widen(double x) { return x; }
SF_DEVICE float widen(float x) { return x; }
SF_DEVICE float widen(BFloat16 x) { return __bfloat162float(x); }
SF_DEVICE float widen(Float16 x) { return __half2float(x); }

template <typename T>
SF_DEVICE T narrow(Accumulate<T> x) {
  if constexpr (sizeof(T) == sizeof(x)) {
    return x;
  } else if constexpr (sizeof(T) == 2 && __is_same(T, BFloat16)) {
    return __float2bfloat16_rn(x);
  } else {
    return __float2half_rn(x);
  }
}

// Elements of T between p and the next 16-byte boundary.
template <typename T>
SF_DEVICE int elements_to_boundary(const T* p) {
  return static_cast<int>((16 - (reinterpret_cast<uintptr_t>(p) & 15)) & 15) /
         static_cast<int>(sizeof(T));
}

// value = quotient * by + rest. Within a chunk 32 bits are enough (plan.h), and a 64-bit division
// is a call that spills registers.
struct Split {
  int quotient, rest;
};
SF_DEVICE Split split(int value, int by) {
  const int quotient = value / by;
  return {quotient, value - quotient * by};
}

}  // namespace symfast
