// SPDX-License-Identifier: Apache-2.0
// Clusters: one thread walks the members of one cluster in member order, for V columns at once.
//   d_i = u_i - u_0,  mean = u_0 + sum d_i / c        equal members give the mean exactly
//   c_j = (S_j - (j+1) d_{j+1}) w_j,  S_j = d_0 + .. + d_j,  w_j = 1 / sqrt((j+1)(j+2))   (Helmert)
#pragma once
#include "plan_work.cuh"

namespace symfast {

// Members whose loads are in flight together.
template <int V>
constexpr int kClusterAhead = V == 8 ? 2 : 4;

struct Cluster {
  int64_t members;
  int size;
  int64_t row;  // place of the member list in the index pool, first coefficient row
};

template <typename T>
SF_DEVICE Cluster cluster_of(const Work<T>& work, int64_t q) {
  const int64_t first = work.index(0), begin = work.index(q), end = work.index(q + 1);
  return {work.task.count + 1 + begin - first, static_cast<int>(end - begin), begin - first - q};
}

template <typename A>
SF_DEVICE A helmert_weight(int j) {
  return A(1) / sqrt(A(j + 1) * A(j + 2));
}

// The walk along one column pack of a cluster: `next(u, v)` turns the value of a member into its
// coefficient (member 0: zero).
template <typename A, int V>
struct Helmert {
  A origin[V] = {}, sum[V] = {};
  A weight, factor;  // of the coefficient that `next` is about to give

  SF_DEVICE void member(int i) {
    factor = A(i);
    weight = i > 0 ? helmert_weight<A>(i - 1) : A(0);
  }
  SF_DEVICE A next(A u, int v) {
    if (factor == A(0)) {
      origin[v] = u;
      sum[v] = u - u;  // not 0: NaN and infinity must show
      return A(0);
    }
    const A d = u - origin[v];
    const A c = (sum[v] - factor * d) * weight;
    sum[v] += d;
    return c;
  }
};

// One column pack of the units in memory. What the first walk reads waits for the second one in
// shared memory, `rows` members at most.
template <int V, typename T>
struct ColumnMembers {
  T* column;
  int64_t step;  // from unit to unit
  Pack<T, V>* kept;
  int rows;

  SF_DEVICE Pack<T, V> load(int64_t unit) const { return load_pack<V>(column + unit * step); }
  SF_DEVICE void store(int64_t unit, const Pack<T, V>& pack) const {
    store_pack<V>(column + unit * step, pack);
  }
  SF_DEVICE void keep(int i, const Pack<T, V>& pack) const {
    if (i < rows) kept[i * blockDim.x + threadIdx.x] = pack;
  }
  SF_DEVICE Pack<T, V> again(int i, int64_t unit) const {
    return i < rows ? kept[i * blockDim.x + threadIdx.x] : load(unit);
  }
};

template <int V, typename T>
SF_DEVICE ColumnMembers<V, T> column_members(const Work<T>& work, int64_t o, int64_t c) {
  Pack<T, V>* kept = reinterpret_cast<Pack<T, V>*>(shared_memory());
  const int rows = work.arguments.cache_bytes / static_cast<int>(blockDim.x * sizeof(Pack<T, V>));
  return {work.element(o, 0, c), work.task.unit_stride, kept, rows};
}

// Calls visit(i, pack) for every member i in order, several loads in flight.
template <int V, typename T, typename Members, typename Visit>
SF_DEVICE void for_members(const Work<T>& work, const Cluster& cluster, const Members& members,
                           Visit&& visit) {
#pragma unroll 1
  for (int first = 0; first < cluster.size; first += kClusterAhead<V>) {
    Pack<T, V> pack[kClusterAhead<V>];
#pragma unroll
    for (int n = 0; n < kClusterAhead<V>; ++n) {
      if (first + n >= cluster.size) continue;
      pack[n] = members.load(work.index(cluster.members + first + n));
    }
#pragma unroll
    for (int n = 0; n < kClusterAhead<V>; ++n) {
      if (first + n < cluster.size) visit(first + n, pack[n]);
    }
  }
}

// The second walk, which changes the members.
template <int V, typename T, typename Members, typename Visit>
SF_DEVICE void for_members_again(const Work<T>& work, const Cluster& cluster,
                                 const Members& members, Visit&& visit) {
#pragma unroll 1
  for (int i = 0; i < cluster.size; ++i) {
    const int64_t unit = work.index(cluster.members + i);
    Pack<T, V> pack = members.again(i, unit);
    visit(i, pack);
    members.store(unit, pack);
  }
}

// The first walk: mean and, for prox, the sum of f(c) w.
template <Verb verb, int V, typename T, typename Members>
SF_DEVICE void cluster_mean(const Work<T>& work, const Cluster& cluster, const Members& members,
                            Accumulate<T> amount, Accumulate<T> (&mean)[V],
                            Accumulate<T> (&rest)[V]) {
  using A = Accumulate<T>;
  Helmert<A, V> walk;
  for_members<V>(work, cluster, members, [&](int i, const Pack<T, V>& pack) {
    walk.member(i);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A c = walk.next(widen(pack.get(v)), v);
      if constexpr (verb == kProx) rest[v] += soft_threshold(c, amount) * walk.weight;
    }
    if constexpr (verb != kProject) members.keep(i, pack);
  });
#pragma unroll
  for (int v = 0; v < V; ++v) mean[v] = walk.origin[v] + walk.sum[v] / A(cluster.size);
}

template <Verb verb, int V, typename T, typename Members>
SF_DEVICE void cluster_apply(const Work<T>& work, const Cluster& cluster, const Members& members,
                             Accumulate<T> amount) {
  using A = Accumulate<T>;
  A mean[V], rest[V] = {};  // rest: what the coming coefficients add to a member
  cluster_mean<verb>(work, cluster, members, amount, mean, rest);
  if constexpr (verb == kProject) {
    Pack<T, V> pack;
#pragma unroll
    for (int v = 0; v < V; ++v) pack.set(v, narrow<T>(mean[v]));
#pragma unroll 1
    for (int i = 0; i < cluster.size; ++i) {
      members.store(work.index(cluster.members + i), pack);
    }
    return;
  }
  Helmert<A, V> walk;
  for_members_again<V>(work, cluster, members, [&](int i, Pack<T, V>& pack) {
    if constexpr (verb == kProx) walk.member(i);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      A u = widen(pack.get(v));
      if constexpr (verb == kReflect) u = mean[v] - (u - mean[v]);
      if constexpr (shrinks(verb)) u = mean[v] + (u - mean[v]) * (A(1) - amount);
      if constexpr (verb == kProx) {
        const A step = soft_threshold(walk.next(u, v), amount) * walk.weight;
        rest[v] -= step;
        u = mean[v] + rest[v] - walk.factor * step;
      }
      pack.set(v, narrow<T>(u));
    }
  });
}

// Coefficients of one column, or their sum of squares.
template <Verb verb, int V, typename T, typename Members>
SF_DEVICE Accumulate<T> cluster_read(const Work<T>& work, const Cluster& cluster,
                                     const Members& members, int64_t o, int64_t c0) {
  using A = Accumulate<T>;
  Helmert<A, V> walk;
  A squares = 0;
  for_members<V>(work, cluster, members, [&](int i, const Pack<T, V>& pack) {
    walk.member(i);
    A c[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      c[v] = walk.next(widen(pack.get(v)), v);
      squares += c[v] * c[v];
    }
    if constexpr (verb == kCoefficients) {
      if (i > 0) {
        store_coefficients<V>(work.output(cluster.row + i - 1, o, c0), work.task.out_inner, c);
      }
    }
  });
  return squares;
}

// Every (cluster, outer, column pack) of the chunk is one thread's.
template <Verb verb, int V, typename T>
SF_DEVICE void clusters(const Work<T>& work) {
  const Chunk& chunk = work.chunk;
  const Walk walk(work, work.inner() / V);
#pragma unroll 1
  for (int n = threadIdx.x; n < walk.items; n += blockDim.x) {
    const Item item(walk, n);
    const int64_t q = chunk.k0 + item.k, o = chunk.o0 + item.o, c = chunk.c0 + item.c * V;
    const Cluster cluster = cluster_of(work, q);
    const ColumnMembers<V, T> members = column_members<V>(work, o, c);
    if constexpr (verb == kCoefficients) {
      cluster_read<verb, V>(work, cluster, members, o, c);
    } else {
      Accumulate<T> amount = 0;
      if constexpr (takes_amounts(verb)) amount = work.template amount<verb>(work.slot(q, o));
      cluster_apply<verb, V>(work, cluster, members, amount);
    }
  }
}

template <Verb verb, typename T>
SF_DEVICE void apply_clusters(const Work<T>& work) {
  if (work.columns_pack()) {
    clusters<verb, kColumns<verb, T>>(work);
  } else {
    clusters<verb, 1>(work);
  }
}

}  // namespace symfast
