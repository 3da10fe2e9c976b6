// SPDX-License-Identifier: Apache-2.0
// Steps on lists of parameters: a block works on a chunk of one parameter, 16 bytes an access. What
// changes from step to step (settings, counters, found_inf) is read from device memory, so that a
// captured graph replays the step.
#pragma once
#include "lanes.cuh"
#include "update.h"

namespace symfast {

constexpr int64_t kUpdateChunk = 8192;
// Words of a parameter in the table: addresses, size, and its first block.
enum UpdateWord : int64_t {
  kParameterAt,
  kGradientAt,
  kFirstAt,
  kSecondAt,
  kStepAt,
  kNumel,
  kFirstBlock,
  kUpdateWords
};
constexpr int64_t kInlineTensors = 64;  // tables of more lie in device memory

struct UpdateArguments {
  const int64_t* table;  // null: `words`
  int64_t tensors, rows;
  const double* settings;
  const int64_t* keys;
  const float *grad_scale, *found_inf;  // or null
  int64_t words[kInlineTensors * kUpdateWords];

  SF_DEVICE int64_t word(int64_t tensor, UpdateWord which) const {
    const int64_t at = tensor * kUpdateWords + which;
    return table ? load(table + at) : words[at];
  }
};

SF_DEVICE bool skips(const UpdateArguments& a) { return a.found_inf && load(a.found_inf) != 0.0f; }

// One parameter as a thread sees it.
template <typename T>
struct UpdatePlace {
  T* p;
  const T* g;
  T* m;
  T* v;
  int64_t begin, end;
};

// U packs of V elements, `stride` apart, from i on, all loaded before the first is used; draw(i)
// gives the random numbers of element i.
template <Rule rule, Decay decay, Momentum momentum, Randomness random, int V, int U, typename T,
          typename Draw>
SF_DEVICE void update_packs(const StepNumbers<Accumulate<T>>& s, const UpdatePlace<T>& at,
                            int64_t i, int64_t stride, const Draw& draw) {
  using A = Accumulate<T>;
  constexpr bool has_first = rule == kAdam || momentum != kNoMomentum;
  Pack<T, V> p[U], g[U], m[U] = {}, v[U] = {};
#pragma unroll
  for (int u = 0; u < U; ++u) {
    p[u] = load_pack<V>(at.p + i + u * stride);
    g[u] = load_pack<V>(at.g + i + u * stride);
    if constexpr (has_first) m[u] = load_pack<V>(at.m + i + u * stride);
    if constexpr (rule == kAdam) v[u] = load_pack<V>(at.v + i + u * stride);
  }
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const int64_t first = i + u * stride;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      A x = widen(p[u].get(e)), y = widen(m[u].get(e)), w = widen(v[u].get(e));
      step_number<rule, decay, momentum, random>(s, draw(first + e), A(widen(g[u].get(e))), x, y,
                                                 w);
      p[u].set(e, narrow<T>(x));
      if constexpr (has_first) m[u].set(e, narrow<T>(y));
      if constexpr (rule == kAdam) v[u].set(e, narrow<T>(w));
    }
    store_pack<V>(at.p + first, p[u]);
    if constexpr (has_first) store_pack<V>(at.m + first, m[u]);
    if constexpr (rule == kAdam) store_pack<V>(at.v + first, v[u]);
  }
}

SF_DEVICE uint32_t word_of(const StepScalars& r, int64_t i) {
  return anchor_word(static_cast<uint32_t>(i) + r.anchor.key[0], r.anchor.key[1]);
}

// Packs of each tensor on their way at once: four loads or more, of two tensors in SGD, four in
// Adam.
template <Rule rule>
constexpr int kAheadPacks = rule == kAdam ? 1 : 2;

// All elements of the place, by packs where everything is aligned.
template <Rule rule, Decay decay, Momentum momentum, Randomness random, typename T, typename Draw>
SF_DEVICE void update_walk(const StepNumbers<Accumulate<T>>& s, const UpdatePlace<T>& at,
                           const Draw& draw) {
  constexpr int P = kPack<T>;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const uintptr_t all = reinterpret_cast<uintptr_t>(at.p) | reinterpret_cast<uintptr_t>(at.g) |
                        reinterpret_cast<uintptr_t>(at.m) | reinterpret_cast<uintptr_t>(at.v);
  const int64_t step = threads * P;
  int64_t tail = at.begin;
  if ((all & 15) == 0) {
    tail = at.begin + (at.end - at.begin) / P * P;
    int64_t i = at.begin + thread * P;
    for (; i + (kAheadPacks<rule> - 1) * step < tail; i += kAheadPacks<rule> * step) {
      update_packs<rule, decay, momentum, random, P, kAheadPacks<rule>>(s, at, i, step, draw);
    }
    for (; i < tail; i += step) {
      update_packs<rule, decay, momentum, random, P, 1>(s, at, i, step, draw);
    }
  }
  for (int64_t i = tail + thread; i < at.end; i += threads) {
    update_packs<rule, decay, momentum, random, 1, 1>(s, at, i, 1, draw);
  }
}

// Steps with nothing random but the anchor, which takes no memory.
template <Rule rule, Decay decay, Momentum momentum, Randomness random, typename T>
SF_DEVICE void update_plain(const StepScalars& r, const UpdatePlace<T>& at) {
  using A = Accumulate<T>;
  const auto draw = [&](int64_t i) -> RandomNumbers<A> {
    if constexpr (random == kAnchorOnly) return {A(0), A(word_normal<float>(word_of(r, i))), A(0)};
    return {};
  };
  update_walk<rule, decay, momentum, random>(StepNumbers<A>(r), at, draw);
}

// The noise of elements [begin, begin + kNoiseTile), begin a multiple of 32: a block of random
// words has four numbers, whose places philox.h says. They go through shared memory, because
// neighbours come from different threads and memory wants packs.
constexpr int kNoiseTile = 2048;
SF_DEVICE float* noise_tile() {  // one for all forms of a step
  SF_SHARED(float, tile, [kNoiseTile]);
  return tile;
}

SF_DEVICE void draw_noise(const StepScalars& r, int64_t begin, float* tile) {
  for (int b = static_cast<int>(threadIdx.x); b < kNoiseTile / 4;
       b += static_cast<int>(blockDim.x)) {
    const RandomStream stream{r.noise_seed, kGradientNoise, r.parameter, r.step};
    const auto noise = random_block<kNoiseRounds>(stream, static_cast<uint64_t>(begin / 4 + b));
    float* const place = tile + 32 * (b / 8) + 2 * (b % 8);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      place[w / 2 + 16 * (w % 2)] = word_normal<float>(static_cast<uint32_t>(noise.word[w]));
    }
  }
}

template <Rule rule, Decay decay, Momentum momentum, typename T>
SF_DEVICE void update_random(const StepScalars& r, const UpdatePlace<T>& at) {
  using A = Accumulate<T>;
  float* const tile = noise_tile();
  const StepNumbers<A> s(r);
  for (int64_t begin = at.begin; begin < at.end; begin += kNoiseTile) {
    __syncthreads();  // the tile may still be read
    draw_noise(r, begin, tile);
    __syncthreads();
    UpdatePlace<T> part = at;
    part.begin = begin;
    part.end = begin + kNoiseTile < at.end ? begin + kNoiseTile : at.end;
    update_walk<rule, decay, momentum, kRandom>(s, part, [&](int64_t i) -> RandomNumbers<A> {
      const uint32_t word = word_of(r, i);
      return {A(tile[i - begin]), A(word_normal<float>(word)), A(word_spread<float>(word))};
    });
  }
}

template <Rule rule, Decay decay, Momentum momentum, typename T>
SF_DEVICE void update_formed(const StepScalars& s, const UpdatePlace<T>& at) {
  if constexpr (decay != kNoDecay) {
    if (s.randomness == kAnchorOnly) return update_plain<rule, decay, momentum, kAnchorOnly>(s, at);
  }
  if (s.randomness == kRandom) return update_random<rule, decay, momentum>(s, at);
  update_plain<rule, decay, momentum, kNotRandom>(s, at);
}

template <Rule rule, Decay decay, typename T>
SF_DEVICE void update_decayed(const StepScalars& s, const UpdatePlace<T>& at) {
  if constexpr (rule == kAdam) {
    update_formed<rule, decay, kNoMomentum>(s, at);
  } else {
    if (s.momentum_form == kNoMomentum) return update_formed<rule, decay, kNoMomentum>(s, at);
    if (s.momentum_form == kMomentum) return update_formed<rule, decay, kMomentum>(s, at);
    update_formed<rule, decay, kNesterov>(s, at);
  }
}

template <typename T, Rule rule>
SF_KERNEL(kBlock, 2)
update_kernel(SF_ARGUMENT UpdateArguments a) {
  SF_SHARED(StepScalars, shared, [1]);
  if (skips(a)) return;
  const auto block = static_cast<int64_t>(blockIdx.x);
  const int64_t t =
      item_of_block(a.tensors, block, [&](int64_t i) { return a.word(i, kFirstBlock); });
  const int64_t row = load_table(a.keys + t * kKeys + kRow);
  if (row < 0 || row >= a.rows) return;
  // a chunk never crosses 2^32, where the keys of an anchor change
  const int64_t begin = (block - a.word(t, kFirstBlock)) * kUpdateChunk;
  if (threadIdx.x == 0) {
    double settings[kSettings];
    int64_t key[kKeys];
#pragma unroll
    for (int i = 0; i < kSettings; ++i) settings[i] = load(a.settings + row * kSettings + i);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) key[i] = load_table(a.keys + t * kKeys + i);
    const auto* step = reinterpret_cast<const float*>(a.word(t, kStepAt));
    const double count = step ? double{load_table(step)} + 1.0 : 1.0;
    shared[0] =
        step_scalars(rule, settings, key, count, a.grad_scale ? double{load(a.grad_scale)} : 1.0);
    if (begin >> 32) set_anchor_keys(shared[0], begin);
  }
  __syncthreads();
  const StepScalars s = shared[0];
  const int64_t numel = a.word(t, kNumel);
  const UpdatePlace<T> at = {reinterpret_cast<T*>(a.word(t, kParameterAt)),
                             reinterpret_cast<T*>(a.word(t, kGradientAt)),
                             reinterpret_cast<T*>(a.word(t, kFirstAt)),
                             reinterpret_cast<T*>(a.word(t, kSecondAt)),
                             begin,
                             begin + kUpdateChunk < numel ? begin + kUpdateChunk : numel};
  if (s.decay_form == kNoDecay) return update_decayed<rule, kNoDecay>(s, at);
  if constexpr (rule == kAdam) {
    if (s.decay_form == kDecoupled) return update_decayed<rule, kDecoupled>(s, at);
  }
  update_decayed<rule, kCoupled>(s, at);
}

// The counters, when every block has read them.
SF_KERNEL(kBlock, 1) count_steps(SF_ARGUMENT UpdateArguments a) {
  if (skips(a)) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlock;
  const int64_t end = first + kBlock < a.tensors ? first + kBlock : a.tensors;
  for (int64_t t = first + threadIdx.x; t < end; t += blockDim.x) {
    auto* step = reinterpret_cast<float*>(a.word(t, kStepAt));
    if (step) store(step, load(step) + 1.0f);
  }
}

}  // namespace symfast
