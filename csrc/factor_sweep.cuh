// SPDX-License-Identifier: Apache-2.0
// CUDA sweep: a replica stays on the chip for all its steps, and replicas never wait for each
// other.
//   sweep_by_team   d <= 32: P threads of a warp are one replica, a coordinate a thread; factors
//   and a
//                   row of the Gram matrix in registers, weights exchanged by shuffles, no barrier
//   sweep_by_block  larger d, or gates: one block a replica; weights in shared memory, the Gram
//   matrix from L2,
//                   factors in global memory, each touched by one thread only
// Replicas with minibatches or noise are left to the kernel of factor_samples.cuh.
#pragma once
#include "factor_replica.cuh"
#include "lanes.cuh"

namespace symfast {

constexpr int kTeamBlock = 128;  // threads of a block of teams
constexpr int kReplicaBlock = 256;

// One of the P threads of a replica: a coordinate and its row of the Gram matrix, in registers.
template <typename T, int D, int P>
struct TeamMember {
  Coordinate<T, D> c;
  T row[P], linear;

  // Weights go round by exchanges with lane ^ j: row[j] is the Gram entry of that partner.
  SF_DEVICE TeamMember(const SweepArguments<T>& a, int64_t b, int lane, bool mine)
      : c{}, linear(0) {
    if (mine) {
      read_coordinate(a, b, lane, c);
      linear = load_table(a.linear + lane);
    }
#pragma unroll
    for (int j = 0; j < P; ++j) {
      const int partner = lane ^ j;
      row[j] = mine && partner < a.d ? load_table(a.gram + partner * a.d + lane) : T(0);
    }
  }

  // The whole warp must call it.
  SF_DEVICE T gradient() const {
    T sum = -linear;
#pragma unroll
    for (int j = 0; j < P; ++j)
      sum = Arithmetic<T>::multiply_add(row[j], __shfl_xor_sync(kAllLanes, c.weight, j), sum);
    return sum;
  }

  SF_DEVICE void step(const StepFactors<T>& factors) {
    const T slope = gradient();
    T lr[D];
#pragma unroll
    for (int j = 0; j < D; ++j) lr[j] = c.lr[j] * factors.lr;
    c.weight =
        step_coordinate<D>(c.factor, c.velocity, slope, lr, c.momentum, c.decay * factors.penalty);
  }

  SF_DEVICE void write(const SweepArguments<T>& a, int64_t b, int lane) const {
    write_factors(a, b, lane, c);
    store(a.weight + b * a.d + lane, c.weight);
  }
};

// Largest change over the P threads of a replica, the same for all; the whole warp must call it.
template <int P, typename T>
SF_DEVICE T worst_of_team(T change) {
#pragma unroll
  for (int offset = 1; offset < P; offset *= 2)
    change = worse(change, __shfl_xor_sync(kAllLanes, change, offset));
  return change;
}

template <typename T, int D, int P>
SF_KERNEL(kTeamBlock, 1)
sweep_by_team(SF_ARGUMENT SweepArguments<T> a) {
  const int lane = static_cast<int>(threadIdx.x) % P;
  const int64_t b =
      (static_cast<int64_t>(blockIdx.x) * blockDim.x + static_cast<int64_t>(threadIdx.x)) / P;
  const bool here = b < a.replicas && source_of(a, b) == GradientSource::gram;
  const bool mine = here && lane < a.d;
  TeamMember<T, D, P> member(a, b, lane, mine);
  Outcome<T> outcome = begin_outcome(a);
  outcome.alive = outcome.alive && here;
  T before = member.c.weight;
  int64_t done = 0;
  // A replica that ended is written at once; its threads step on until the warp's last one ends.
  while (done < a.steps && __ballot_sync(kAllLanes, outcome.alive) != 0) {
    const int64_t left = a.steps - done, chunk = left < a.check_every ? left : a.check_every;
    for (int64_t step = 0; step < chunk; ++step)
      member.step(outcome.alive ? factors_of(a, b, done + step) : StepFactors<T>{0, 0});
    done += chunk;
    const T change = worst_of_team<P>(change_of(member.c.weight, before));
    before = member.c.weight;
    if (!outcome.alive) continue;
    outcome.done = done;
    const bool ends = outcome.check(change, a.tol);
    outcome.alive = !ends;
    if (ends && mine) member.write(a, b, lane);
  }
  if (mine && (outcome.alive || outcome.done == 0)) member.write(a, b, lane);
  if (lane == 0 && here) write_outcome(a, b, outcome);
}

template <typename T>
SF_DEVICE T gradient_of(const SweepArguments<T>& a, int64_t i, const T* weight) {
  T gradient = -load_table(a.linear + i);
  // The Gram matrix is symmetric: reading a column as a row is coalesced.
  for (int64_t j = 0; j < a.d; ++j)
    gradient = Arithmetic<T>::multiply_add(load_table(a.gram + j * a.d + i), weight[j], gradient);
  return gradient;
}

// Reads a coordinate whose rates are those of a step.
template <typename T, int D>
SF_DEVICE void read_scaled(const SweepArguments<T>& a, int64_t b, int64_t i,
                           const StepFactors<T>& factors, Coordinate<T, D>& c) {
  read_coordinate(a, b, i, c);
  c.decay = c.decay * factors.penalty;
#pragma unroll
  for (int j = 0; j < D; ++j) c.lr[j] = c.lr[j] * factors.lr;
}

// One step of every coordinate of this block's replica, from `weight` to `next`.
template <typename T, int D>
SF_DEVICE void step_replica(const SweepArguments<T>& a, int64_t b, const StepFactors<T>& factors,
                            const T* weight, T* next) {
  for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x) {
    Coordinate<T, D> c;
    read_scaled(a, b, i, factors, c);
    next[i] = step_coordinate<D>(c.factor, c.velocity, gradient_of(a, i, weight), c.lr, c.momentum,
                                 c.decay);
    write_factors(a, b, i, c);
  }
}

// Weights of a block's replica in shared memory, and room for `form_gradients` and gates.
template <typename T>
struct BlockWeights {
  T *weight, *next;   // (d)
  T* before;          // (d), at the last check
  T *own, *gradient;  // (d)

  SF_DEVICE BlockWeights(T* memory, int64_t d)
      : weight(memory),
        next(memory + d),
        before(memory + 2 * d),
        own(memory + 3 * d),
        gradient(memory + 4 * d) {}
  SF_DEVICE void swap() {
    T* const swapped = weight;
    weight = next;
    next = swapped;
  }
};

// What f_0 was, where there are gates: all coordinates of a group need it.
template <typename T>
SF_DEVICE void keep_own(const SweepArguments<T>& a, int64_t b, const BlockWeights<T>& w) {
  for (int64_t i = threadIdx.x; a.group && i < a.d; i += blockDim.x)
    w.own[i] = load(a.factors + b * a.max_depth * a.d + i);
}

// Gradient times own factor over the group of coordinate i.
template <typename T>
SF_DEVICE T group_sum(const SweepArguments<T>& a, int64_t i, const BlockWeights<T>& w) {
  const int64_t group = load_table(a.group + i);
  T sum = 0;
  for (int64_t j = group < 0 ? 0 : group; j < a.d && load_table(a.group + j) == group; ++j)
    sum = gate_gradient(sum, w.gradient[j], w.own[j]);
  return sum;
}

// The same with gates. All gradients come first, and what f_0 was.
template <typename T, int D>
SF_DEVICE void step_gates(const SweepArguments<T>& a, int64_t b, const StepFactors<T>& factors,
                          const BlockWeights<T>& w) {
  for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x) {
    Coordinate<T, D> c;
    read_scaled(a, b, i, factors, c);
    w.next[i] = step_gated<D>(c.factor, c.velocity, w.gradient[i], group_sum(a, i, w), c.lr,
                              c.momentum, c.decay);
    write_factors(a, b, i, c);
  }
}

// Largest change over the block, the same for all its threads; all of them must call it.
template <typename T>
SF_DEVICE T worst_of_block(T change) {
  SF_SHARED(T, of_warp, [kReplicaBlock / kWarp]);
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2)
    change = worse(change, __shfl_xor_sync(kAllLanes, change, offset));
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = change;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int warp = 0; warp < warps; ++warp) change = worse(change, of_warp[warp]);
  __syncthreads();
  return change;
}

// All steps of this block's replica; step(weights, number of the step in the call) does one.
template <typename T, int D, typename Step>
SF_DEVICE void sweep_replica(const SweepArguments<T>& a, int64_t b, BlockWeights<T>& w,
                             const Step& step) {
  for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x) {
    Coordinate<T, D> c;
    read_coordinate(a, b, i, c);
    w.weight[i] = w.before[i] = c.weight;
  }
  __syncthreads();
  Outcome<T> outcome = begin_outcome(a);
  while (outcome.done < a.steps && outcome.alive) {
    const int64_t left = a.steps - outcome.done;
    const int64_t chunk = left < a.check_every ? left : a.check_every;
    for (int64_t index = outcome.done; index < outcome.done + chunk; ++index) {
      step(w, index);
      __syncthreads();
      w.swap();
    }
    outcome.done += chunk;
    T change = 0;
    for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x) {
      change = worse(change, change_of(w.weight[i], w.before[i]));
      w.before[i] = w.weight[i];
    }
    outcome.alive = !outcome.check(worst_of_block(change), a.tol);
  }
  for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x)
    store(a.weight + b * a.d + i, w.weight[i]);
  if (threadIdx.x == 0) write_outcome(a, b, outcome);
}

template <typename T, int D>
SF_KERNEL(kReplicaBlock, 1)
sweep_by_block(SF_ARGUMENT SweepArguments<T> a) {
  SF_DYNAMIC_SHARED(memory);
  const int64_t b = blockIdx.x;
  if (source_of(a, b) != GradientSource::gram) return;
  BlockWeights<T> weights(reinterpret_cast<T*>(memory), a.d);
  sweep_replica<T, D>(a, b, weights, [&](BlockWeights<T>& w, int64_t index) {
    const StepFactors<T> factors = factors_of(a, b, index);
    if (!a.group) return step_replica<T, D>(a, b, factors, w.weight, w.next);
    for (int64_t i = threadIdx.x; i < a.d; i += blockDim.x)
      w.gradient[i] = gradient_of(a, i, w.weight);
    keep_own(a, b, w);
    __syncthreads();
    step_gates<T, D>(a, b, factors, w);
  });
}

// progress[0] += amount: a launch reports once, at its end.
SF_KERNEL(kWarp, 1)
report_progress(int64_t* progress, int64_t amount) {
  if (threadIdx.x == 0 && load(progress + 1) == 0) store(progress, load(progress) + amount);
}

}  // namespace symfast
