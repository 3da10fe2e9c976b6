// SPDX-License-Identifier: Apache-2.0
// The functional mirror verbs: a block takes a few rows of one group, or a few groups of few rows.
#pragma once
#include "dense_lines.cuh"

namespace symfast {

template <typename T, typename F>
struct MirrorArguments {
  using A = Accumulate<T>;
  const T* theta;    // (groups, rows, d)
  const F* frames;   // O (groups, d, k), or O^T (groups, k, d)
  bool transposed;   // O^T
  const A* amounts;  // (groups, rows) or one
  bool one_amount, group;
  T* out;    // (groups, rows, d), or (groups, rows, k) for coefficients
  A* norms;  // (groups, rows), where they are asked for
  int64_t groups, rows;
  int d, k;
  int groups_each, rows_each, blocks_each;  // of a block; blocks per bundle of groups
  int stage_bytes;
};

template <Verb verb, typename T, typename F, typename C>
SF_DEVICE void fill_job(const MirrorArguments<T, F>& a, DenseJob<T, F, C>& job) {
  const int64_t bundle = blockIdx.x / a.blocks_each;
  const int64_t g0 = bundle * a.groups_each,
                n0 = (blockIdx.x - bundle * a.blocks_each) * int64_t{a.rows_each};
  const int64_t groups = a.groups - g0 < a.groups_each ? a.groups - g0 : a.groups_each;
  const int64_t rows = a.rows - n0 < a.rows_each ? a.rows - n0 : a.rows_each;
  job.columns = {a.theta,
                 a.out,
                 1,
                 a.rows * a.d,
                 a.d,
                 g0,
                 n0,
                 a.d,
                 static_cast<int>(groups),
                 static_cast<int>(rows)};
  if (verb >= kCoefficients) job.columns.target = const_cast<T*>(a.theta);  // not written
  const int64_t size = int64_t{a.d} * a.k;
  job.frames = {a.frames, size, a.transposed ? a.d : 1, a.transposed ? 1 : a.k, a.k};
  job.amounts = a.amounts;
  job.amount = 0;
  job.slots = a.one_amount ? Places{0, 0, 0, 0} : Places{0, a.rows, 1, 0};
  job.group = a.group;
  if constexpr (verb == kNorms) {
    job.out = a.norms;
    job.places = {0, a.rows, 1, 0};
  } else {
    job.out = a.out;
    job.places = {0, a.rows * a.k, a.k, 1};
  }
  job.partials = nullptr;
  job.partial_rows = job.partial_outer = false;
  job.stage_bytes = a.stage_bytes;
}

// What comes out of a verb: norms as wide as they are summed.
template <Verb verb, typename T>
struct MirrorResultOf {
  using type = T;
};
template <typename T>
struct MirrorResultOf<kNorms, T> {
  using type = Accumulate<T>;
};

template <typename T, typename F, Verb verb>
SF_KERNEL(kBlock, 2)
mirror_kernel(SF_ARGUMENT MirrorArguments<T, F> arguments) {
  using Job = DenseJob<T, F, typename MirrorResultOf<verb, T>::type>;
  SF_SHARED(Job, job, [1]);
  if (threadIdx.x == 0) fill_job<verb>(arguments, job[0]);
  __syncthreads();
  dense_columns_by_team<verb == kNorms ? kDistances : verb>(job[0]);
}

}  // namespace symfast
