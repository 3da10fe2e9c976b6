// SPDX-License-Identifier: Apache-2.0
// CUDA's names for kernel bodies that run on the CPU: csrc/device.h includes this instead of CUDA's
// headers. Every CUDA thread is a fiber; blocks run one after another, or several of them in turns.
// The run time behind it (emulator.cpp, memory.cpp, signals.cpp) checks barriers, warp operations
// and every access to global memory, and counts bytes, sectors and barriers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "half.h"

#define __global__
#define __device__
#define __host__
#define SF_DEVICE inline
#define SF_KERNEL(threads, blocks) void
#define SF_ARGUMENT const
#define SF_SHARED(T, name, ...)       \
  using name##_array = T __VA_ARGS__; \
  static const char name##_key = 0;   \
  name##_array& name =                \
      *static_cast<name##_array*>(emulator::static_shared(&name##_key, sizeof(name##_array)))
#define SF_DYNAMIC_SHARED(name) unsigned char* name = emulator::dynamic_shared()

namespace emulator {

struct Index {
  unsigned x;
};
extern Index thread_index, block_index, block_size, grid_size;

// Where a thread waits; named in messages.
struct Site {
  const char* file;
  int line;
};

enum class WarpOp { sync, shuffle_xor, ballot };

void barrier(Site site);
// Waits for another block to do something: the others' turn.
void wait(Site site);
uint64_t warp_operation(WarpOp op, unsigned mask, uint64_t value, int argument, Site site);

// Fresh for every block, filled with NaN.
void* static_shared(const void* key, std::size_t bytes);
unsigned char* dynamic_shared();

// True if the access is good; a bad one is reported and must not be made. No address: false, and
// nothing but a turn.
bool access(const void* p, std::size_t bytes, bool write);
// The same of memory that no thread of this launch writes.
bool access_table(const void* p, std::size_t bytes);

// Memory that blocks of a launch tell each other by. What a block stores there, others may see only
// after a fence of the thread that stored it, or when the block has ended.
void fence();
int64_t load_signal(const int64_t* p);
void store_signal(int64_t* p, int64_t value);
// Atomic and relaxed; others see them at once.
int64_t fetch_add(int64_t* p, int64_t n);
void compare_and_swap(int64_t* p, int64_t from, int64_t to);

// One launch: `body` is what every thread runs.
void run(int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body);

template <typename T>
T shuffle_xor(unsigned mask, T value, int lanes, Site site) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_operation(WarpOp::shuffle_xor, mask, bits, lanes, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

#define threadIdx ::emulator::thread_index
#define blockIdx ::emulator::block_index
#define blockDim ::emulator::block_size
#define gridDim ::emulator::grid_size
#define EMULATOR_SITE \
  ::emulator::Site { __FILE__, __LINE__ }
#define __syncthreads() ::emulator::barrier(EMULATOR_SITE)
#define back_off() ::emulator::wait(EMULATOR_SITE)
#define __syncwarp() \
  ::emulator::warp_operation(::emulator::WarpOp::sync, 0xffffffffu, 0, 0, EMULATOR_SITE)
#define __shfl_xor_sync(mask, value, lanes) \
  ::emulator::shuffle_xor(mask, value, lanes, EMULATOR_SITE)
#define __ballot_sync(mask, vote)                                                    \
  static_cast<unsigned>(::emulator::warp_operation(::emulator::WarpOp::ballot, mask, \
                                                   (vote) ? 1 : 0, 0, EMULATOR_SITE))
#define __threadfence() ::emulator::fence()
#define __popc(bits) __builtin_popcount(bits)

namespace symfast {

template <typename T, int V>
struct Pack;

template <typename T>
SF_DEVICE T load(const T* p) {
  T value{};
  if (emulator::access(p, sizeof(T), false)) value = *p;
  return value;
}

template <typename T>
SF_DEVICE void store(T* p, std::type_identity_t<T> value) {
  if (emulator::access(p, sizeof(T), true)) *p = value;
}

template <int V, typename T>
SF_DEVICE Pack<T, V> load_pack(const T* p) {
  Pack<T, V> pack{};
  if (emulator::access(p, sizeof(pack), false)) {
    for (int v = 0; v < V; ++v) pack.set(v, p[v]);
  }
  return pack;
}

template <int V, typename T>
SF_DEVICE void store_pack(T* p, const Pack<T, V>& pack) {
  if (!emulator::access(p, sizeof(pack), true)) return;
  for (int v = 0; v < V; ++v) p[v] = pack.get(v);
}

template <int V, typename T>
SF_DEVICE void store_new_pack(T* p, const Pack<T, V>& pack) {
  store_pack<V>(p, pack);
}

// A lane that sits an access out keeps its turn: what the others ask for by the same instruction
// stays one request.
template <int V, typename T>
SF_DEVICE Pack<T, V> load_pack_where(bool here, const T* p) {
  Pack<T, V> pack{};
  if (emulator::access(here ? p : nullptr, sizeof(pack), false)) {
    for (int v = 0; v < V; ++v) pack.set(v, p[v]);
  }
  return pack;
}

template <int V, typename T>
SF_DEVICE void store_new_pack_where(bool here, T* p, const Pack<T, V>& pack) {
  if (!emulator::access(here ? p : nullptr, sizeof(pack), true)) return;
  for (int v = 0; v < V; ++v) p[v] = pack.get(v);
}

template <typename T>
SF_DEVICE T load_table(const T* p) {
  T value{};
  if (emulator::access_table(p, sizeof(T))) value = *p;
  return value;
}

template <typename T>
SF_DEVICE T load_fresh(const T* p) {
  return load(p);
}

using emulator::compare_and_swap;
using emulator::fetch_add;
using emulator::load_signal;
using emulator::store_signal;

using std::sqrt;

}  // namespace symfast
