// SPDX-License-Identifier: Apache-2.0
// Clusters of units for plan_simd.cpp. With d_i = u_i - u_0 over the members of a cluster:
//   mean = u_0 + sum d_i / c         exact, bit for bit, when all members are equal
//   c_j  = (S_j - (j+1) d_{j+1}) / sqrt((j+1)(j+2)),  S_j = d_0 + .. + d_j   (Helmert)
#pragma once
#include "plan_index_simd.h"

namespace symfast {
namespace SYMFAST_ISA {

// A lane group of columns: W adjacent ones in a vector, or a single one.
template <typename T, bool vector>
struct Lane {
  using A = Acc<T>;
  using V = Vec<A>;
  SF_INLINE V get(const T* p, int64_t n) { return n == kLanes<A> ? load(p) : load_some(p, n); }
  SF_INLINE void set(T* p, V v, int64_t n) { n == kLanes<A> ? store(p, v) : store_some(p, v, n); }
  SF_INLINE double total(V v) { return static_cast<double>(sum(v)); }
};
template <typename T>
struct Lane<T, false> {
  using V = Acc<T>;
  SF_INLINE V get(const T* p, int64_t) { return widen(*p); }
  SF_INLINE void set(T* p, V v, int64_t) { put(p, v); }
  SF_INLINE double total(V v) { return v; }
};

SF_INLINE double helmert_scale(int64_t j) {
  return 1.0 / __builtin_sqrt(static_cast<double>(j + 1) * static_cast<double>(j + 2));
}

template <typename T, bool vector>
struct ClusterColumns {
  using A = Acc<T>;
  using V = typename Lane<T, vector>::V;
  using L = Lane<T, vector>;
  const int64_t* members;
  int64_t count, stride, lanes;
  T* u;

  V get(int64_t i) const { return L::get(u + members[i] * stride, lanes); }
  void set(int64_t i, V v) const { L::set(u + members[i] * stride, v, lanes); }

  V mean() const {
    const V first = get(0);
    V total = first - first;
    for (int64_t i = 1; i < count; ++i) total += get(i) - first;
    return first + total / static_cast<A>(count);
  }

  // visit(j, c_j) for every Helmert coefficient; returns the mean.
  template <typename Visit>
  V helmert(const Visit& visit) const {
    const V first = get(0);
    V total = first - first;
    for (int64_t j = 0; j + 1 < count; ++j) {
      const V d = get(j + 1) - first;
      visit(j, (total - d * static_cast<A>(j + 1)) * static_cast<A>(helmert_scale(j)));
      total += d;
    }
    return first + total / static_cast<A>(count);
  }

  // total += c_j^2 of all lanes.
  void add_squares(double& total) const {
    V sums{};
    helmert([&](int64_t j, V c) {
      sums += c * c;
      if (j % 64 == 63) {  // float lanes are emptied into double regularly
        total += L::total(sums);
        sums = c - c;
      }
    });
    total += L::total(sums);
  }

  // Coefficients into rows of `out`, `row_stride` apart, lanes `lane_stride` apart.
  void write_coefficients(A* out, int64_t row_stride, int64_t lane_stride) const {
    helmert([&](int64_t j, V c) {
      A* row = out + j * row_stride;
      if constexpr (vector) {
        for (int64_t i = 0; i < lanes; ++i) row[i * lane_stride] = c[i];
      } else {
        *row = c;
      }
    });
  }

  template <Verb verb>
  void update(A amount, V* scratch) const {
    if constexpr (verb == kProx) {
      const V m = helmert([&](int64_t j, V c) { scratch[j] = soft_threshold(c, amount); });
      V rest = m - m;  // what the columns after j add to member j
      for (int64_t j = count - 2; j >= 0; --j) {
        const V c = scratch[j] * static_cast<A>(helmert_scale(j));
        set(j + 1, m + (rest - c * static_cast<A>(j + 1)));
        rest += c;
      }
      set(0, m + rest);
    } else {
      const V m = mean();
      for (int64_t i = 0; i < count; ++i) {
        if constexpr (verb == kProject) {
          set(i, m);
        } else {
          set(i, m + new_coefficient<verb>(get(i) - m, amount));
        }
      }
    }
  }
};

template <Verb verb, bool vector, typename T>
SF_INLINE void run_cluster(const PlanCall& call, const Task& task, const Chunk& chunk, T* base,
                           int64_t o, int64_t cluster, Acc<T>* scratch) {
  using A = Acc<T>;
  const int64_t* offsets = call.index + task.pool;
  const int64_t from = offsets[cluster];
  ClusterColumns<T, vector> columns{offsets + task.count + 1 + from, offsets[cluster + 1] - from,
                                    task.unit_stride, 1, nullptr};
  const auto amounts = Amounts<A>::of(call);
  const int64_t step = vector ? kLanes<A> : 1;
  double squares = 0;
  for (int64_t c = chunk.c0; c < chunk.c1; c += step) {
    columns.u = base + c * task.inner_stride;
    columns.lanes = chunk.c1 - c < step ? chunk.c1 - c : step;
    if constexpr (verb == kNorms) {
      columns.add_squares(squares);
    } else if constexpr (verb == kCoefficients) {
      A* out = static_cast<A*>(call.out) + task.out + o * task.out_outer + c * task.out_inner;
      columns.write_coefficients(out + (from - cluster) * task.out_row, task.out_row,
                                 task.out_inner);
    } else {
      using V = typename Lane<T, vector>::V;
      columns.template update<verb>(amounts.at(task.group, task.mirror + cluster),
                                    reinterpret_cast<V*>(scratch));
    }
  }
  if constexpr (verb == kNorms) call.partial[chunk.partial + cluster - chunk.k0] += squares;
}

template <Verb verb, typename T>
void run_clusters(const PlanCall& call, const Task& task, const Chunk& chunk, T* data,
                  Acc<T>* scratch) {
  const bool vector = task.inner_stride == 1 && chunk.c1 - chunk.c0 > 1;
  for (int64_t o = chunk.o0; o < chunk.o1; ++o) {
    T* base = data + task.base + o * task.outer_stride;
    for (int64_t q = chunk.k0; q < chunk.k1; ++q) {
      if (vector) {
        run_cluster<verb, true>(call, task, chunk, base, o, q, scratch);
      } else {
        run_cluster<verb, false>(call, task, chunk, base, o, q, scratch);
      }
    }
  }
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
