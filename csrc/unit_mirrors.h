// SPDX-License-Identifier: Apache-2.0
// Mirrors between the hidden units of a network, applied to one column of its unit matrix after a
// step: U <- U + A (f(C) - C), C = A^T U, one mirror after the other. Shared by the CPU lanes and
// the CUDA threads.
#pragma once

#include <cstdint>

#include "arithmetic.h"
#include "elementary.h"
#include "plan.h"

namespace symfast {

// What f does to a coefficient; symfast/reference/unit_mirrors.py has the same codes.
enum class Constraint : std::int64_t { none = 0, project = 1, shrink = 2, prox = 3 };

// Groups of units first, then directions. A group of one unit is its sign flip, of several their
// permutation.
template <typename T>
struct UnitMirrors {
  const std::int64_t* offsets;      // (groups + 1), into members
  const std::int64_t* members;      // numbers of units
  const T* directions;              // (rows, hidden), orthonormal rows
  std::int64_t groups, size, rows;  // size: of members
};

template <typename V>
SYMFAST_SWEEP_INLINE V constrained(Constraint f, V coefficient, V amount) {
  using A = typename Lanes<V>::Number;
  if (f == Constraint::project) return new_coefficient<kProject>(coefficient, amount);
  if (f == Constraint::shrink) return coefficient * (fill<V>(A(1)) - amount);
  return new_coefficient<kProx>(coefficient, amount);
}

// The coefficients of a group under prox are those of its Helmert frame, as in Cluster: for j >= 1
// c_j = (sum_{i<j} d_i - j d_j) / sqrt(j (j + 1)), d_i = u_i - u_0. From the last member down, so
// that nothing has to be kept.
template <typename V, typename Column>
SYMFAST_SWEEP_INLINE void soften_group(const std::int64_t* members, std::int64_t count, V amount,
                                       V first, V sum, V mean, const Column& u) {
  using A = typename Lanes<V>::Number;
  V before = sum, rest{};
  for (std::int64_t j = count - 1; j > 0; --j) {
    const V d = u.get(members[j]) - first, weight = fill<V>(A(j));
    const V size = fill<V>(Lanes<A>::root(A(j * (j + 1))));
    before = before - d;
    const V c = soft_threshold((before - weight * d) / size, amount) / size;
    u.put(members[j], Arithmetic<V>::multiply_add(-weight, c, mean + rest));
    rest = rest + c;
  }
  u.put(members[0], mean + rest);
}

template <typename V, typename Column>
SYMFAST_SWEEP_INLINE void constrain_group(const std::int64_t* members, std::int64_t count,
                                          Constraint f, V amount, const Column& u) {
  using A = typename Lanes<V>::Number;
  const V first = u.get(members[0]);
  if (count == 1) return u.put(members[0], constrained(f, first, amount));
  V sum{};  // of differences: exactly zero for equal members
  for (std::int64_t i = 1; i < count; ++i) sum = sum + (u.get(members[i]) - first);
  const V mean = first + sum / fill<V>(A(count));
  if (f == Constraint::prox) return soften_group(members, count, amount, first, sum, mean, u);
  const V keep = fill<V>(A(1)) - amount;
  for (std::int64_t i = 0; i < count; ++i) {
    const V apart = u.get(members[i]) - mean;
    u.put(members[i],
          f == Constraint::project ? mean : Arithmetic<V>::multiply_add(apart, keep, mean));
  }
}

template <typename V, typename T, typename Column>
SYMFAST_SWEEP_INLINE void constrain_direction(const T* direction, std::int64_t units, Constraint f,
                                              V amount, const Column& u) {
  V c{};
  for (std::int64_t j = 0; j < units; ++j)
    c = Arithmetic<V>::multiply_add(u.get(j), fill<V>(direction[j]), c);
  const V change = constrained(f, c, amount) - c;
  for (std::int64_t j = 0; j < units; ++j)
    u.put(j, Arithmetic<V>::multiply_add(change, fill<V>(direction[j]), u.get(j)));
}

// All mirrors on one column: u.get(j) and u.put(j, value) are its entries.
template <typename V, typename T, typename Column>
SYMFAST_SWEEP_INLINE void constrain_column(const UnitMirrors<T>& mirrors, std::int64_t units,
                                           Constraint f, V amount, const Column& u) {
  for (std::int64_t g = 0; g < mirrors.groups; ++g) {
    const std::int64_t start = mirrors.offsets[g], end = mirrors.offsets[g + 1];
    if (start < 0 || end <= start || end > mirrors.size) continue;  // a GPU checks no table before
    constrain_group(mirrors.members + start, end - start, f, amount, u);
  }
  for (std::int64_t q = 0; q < mirrors.rows; ++q)
    constrain_direction(mirrors.directions + q * units, units, f, amount, u);
}

}  // namespace symfast
