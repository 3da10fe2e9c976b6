// SPDX-License-Identifier: Apache-2.0
// Plan verbs in float64, as plain loops over the tables of csrc/plan.h: every kind of frame becomes
// a list of orthonormal columns, and every verb u + A (f(c) - c), c = A^T u.
#pragma once
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "plan.h"

namespace symfast {

struct HostPlan {
  std::vector<Task> tasks;
  std::vector<Chunk> chunks;
  std::vector<int64_t> index;
  std::vector<double> frames;
  std::vector<int64_t> sizes;  // elements of every tensor
  int64_t mirrors = 0, output = 0, partials = 0;
  bool in_place = true;  // sums of squares of chunks are the norms
  double touched = 0;    // elements that a verb reads
  bool dense() const { return !frames.empty(); }
};

// One column of A: units and what they are multiplied by.
struct FrameColumn {
  int64_t mirror, row;  // number within the task, coefficient row
  std::vector<std::pair<int64_t, double>> entries;
};

// Members m_0 .. m_s of a cluster: c_j = (u_0 + .. + u_j - (j + 1) u_{j+1}) / sqrt((j+1)(j+2)).
inline void add_cluster(const int64_t* member, int64_t size, int64_t mirror, int64_t row,
                        std::vector<FrameColumn>& columns) {
  for (int64_t j = 0; j + 1 < size; ++j) {
    FrameColumn column{mirror, row + j, {}};
    const double weight = 1 / std::sqrt(static_cast<double>((j + 1) * (j + 2)));
    for (int64_t i = 0; i <= j; ++i) column.entries.push_back({member[i], weight});
    column.entries.push_back({member[j + 1], -weight * static_cast<double>(j + 1)});
    columns.push_back(std::move(column));
  }
}

inline FrameColumn unit_column(int64_t mirror, int64_t a, int64_t b, bool pair) {
  const double half = std::sqrt(0.5);
  if (!pair) return {mirror, mirror, {{a, 1.0}}};
  return {mirror, mirror, {{a, half}, {b, -half}}};
}

// The columns of A at outer index o.
inline std::vector<FrameColumn> columns_of(const HostPlan& plan, const Task& task, int64_t o) {
  std::vector<FrameColumn> columns;
  const int64_t* pool = plan.index.data() + task.pool;
  const bool pair = task.kind == kPairs || task.kind == kPairsScattered;
  for (int64_t n = 0; n < task.count; ++n) {
    if (task.kind == kRows || task.kind == kPairs) {
      for (int64_t i = 0; i < pool[4 * n + 2]; ++i) {
        columns.push_back(
            unit_column(pool[4 * n + 3] + i, pool[4 * n] + i, pool[4 * n + 1] + i, pair));
      }
    } else if (task.kind == kRowsScattered || task.kind == kPairsScattered) {
      columns.push_back(unit_column(n, pool[n] & 0xffffffff, pool[n] >> 32, pair));
    } else if (task.kind == kClusters) {
      const int64_t begin = pool[n] - pool[0], end = pool[n + 1] - pool[0];
      add_cluster(pool + task.count + 1 + begin, end - begin, n, begin - n, columns);
    } else {
      const double* row = plan.frames.data() + task.pool + o * task.frame_step + n * task.frame_row;
      FrameColumn column{n, n, {}};
      for (int64_t i = 0; i < task.units; ++i) column.entries.push_back({i, row[i]});
      columns.push_back(std::move(column));
    }
  }
  return columns;
}

struct HostResult {
  std::vector<std::vector<double>> data;
  std::vector<double> coefficients, norms;
};

// The amount of a mirror by its number, or one for all.
struct HostAmounts {
  const std::vector<double>* by_mirror;
  double one;
  double at(int64_t mirror) const {
    return by_mirror ? (*by_mirror)[static_cast<std::size_t>(mirror)] : one;
  }
};

inline double changed(Verb verb, double c, double t) {
  if (verb == kReflect) return -c;
  if (verb == kProject) return 0;
  if (verb == kShrink) return c * (1 - t);
  return c > t ? c - t : c < -t ? c + t : 0;
}

// The mirror number of a column of A at outer index o.
inline int64_t mirror_of(const Task& task, const FrameColumn& column, int64_t o) {
  const int64_t by = task.kind == kDense ? task.mirror_column_step : 1;
  return task.mirror + column.mirror * by + o * task.mirror_step;
}

// One verb on `result.data`; one task after the other.
inline void apply_reference(const HostPlan& plan, Verb verb, const HostAmounts& amounts,
                            HostResult& result) {
  result.coefficients.assign(static_cast<std::size_t>(plan.output), 0);
  result.norms.assign(static_cast<std::size_t>(plan.mirrors), 0);
  for (const Task& task : plan.tasks) {
    double* data = result.data[static_cast<std::size_t>(task.tensor)].data() + task.base;
    for (int64_t o = 0; o < task.outer; ++o) {
      const std::vector<FrameColumn> columns = columns_of(plan, task, o);
      for (int64_t c = 0; c < task.inner; ++c) {
        double* u = data + o * task.outer_stride + c * task.inner_stride;
        for (const FrameColumn& column : columns) {  // orthonormal: one after the other is A A^T
          double value = 0;
          for (const auto& [i, a] : column.entries) value += a * u[i * task.unit_stride];
          const int64_t mirror = mirror_of(task, column, o);
          result.norms[static_cast<std::size_t>(mirror)] += value * value;
          result.coefficients[static_cast<std::size_t>(task.out + column.row * task.out_row +
                                                       o * task.out_outer + c * task.out_inner)] =
              value;
          if (verb > kProx) continue;
          const double step = changed(verb, value, amounts.at(mirror)) - value;
          for (const auto& [i, a] : column.entries) u[i * task.unit_stride] += a * step;
        }
      }
    }
  }
}

}  // namespace symfast
