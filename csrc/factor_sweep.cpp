// SPDX-License-Identifier: Apache-2.0
// CPU sweep of product factors: blocks of replicas of equal depth and schedule.
#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "factor_sweep_op.h"
#include "factor_sweep_worker.h"
#include "isa.h"

namespace symfast {

SYMFAST_DECLARE_PER_ISA(
    void advance_factors_f64(const FactorBlock<double>& block, std::int64_t steps);
    void advance_factors_f32(const FactorBlock<float>& block, std::int64_t steps);
    void advance_samples_f64(const FactorBlock<double>& block, std::int64_t steps);
    void advance_samples_f32(const FactorBlock<float>& block, std::int64_t steps);
    void advance_moments_f64(const FactorBlock<double>& block, std::int64_t steps);
    void advance_moments_f32(const FactorBlock<float>& block, std::int64_t steps);)

namespace {

// Replicas of equal depth, schedules and source of gradients, and with random numbers of equal seed
// and batch; the deepest and longest come first.
template <typename T>
Packing pack(const SweepArguments<T>& a) {
  std::vector<std::int64_t> every(static_cast<std::size_t>(a.replicas));
  std::iota(every.begin(), every.end(), std::int64_t{0});
  return Packing(std::move(every), kSweepLanes<T>, [&a](std::int64_t b) {
    const GradientSource source = source_of(a, b);
    const bool random = source != GradientSource::gram;
    const std::int64_t batch = random ? a.samples.batch[b] : 0,
                       seed = random ? a.samples.seed[b] : 0;
    return std::make_tuple(-a.depth[b], source, -batch, a.kind[b], a.lr_kind[b], seed);
  });
}

// Rows of the data in a step of the replica that takes most of them.
template <typename T>
std::int64_t most_rows(const SweepArguments<T>& a) {
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < a.replicas; ++b)
    if (source_of(a, b) == GradientSource::samples) most = std::max(most, rows_of(a, b));
  return most;
}

// What the kernel indexes by; on a GPU the kernel clamps instead.
template <typename T>
void check_tables(const SweepArguments<T>& a) {
  bool depths = true, kinds = true, groups = true, draws = true, rows = true;
  for (std::int64_t b = 0; b < a.replicas; ++b) {
    depths &= a.depth[b] >= 1 && a.depth[b] <= a.max_depth;
    kinds &= a.kind[b] >= 0 && a.kind[b] < a.kinds;
    kinds &= a.lr_kind[b] >= 0 && a.lr_kind[b] < a.lr_kinds;
    rows &= source_of(a, b) != GradientSource::samples || a.samples.shape.samples > 0;
    if (!a.samples.batch) continue;
    draws &= a.samples.batch[b] >= 0 && a.samples.cell[b] >= 0 &&
             a.samples.cell[b] < (std::int64_t{1} << 32);
  }
  for (std::int64_t i = 0; a.group && i < a.d; ++i)
    groups &= a.group[i] == i ||
              (i > 0 && a.group[i] == a.group[i - 1] && a.factored[i] && a.factored[i - 1]);
  require(depths, "factor_sweep: each depth must lie between 1 and the ", a.max_depth,
          " factors given");
  require(kinds, "factor_sweep: kind must name a row of the schedule");
  require(draws, "factor_sweep: a batch must not be negative, a cell lie in 0 .. 2^32 - 1");
  require(rows, "factor_sweep: minibatches and label noise need the samples x and y");
  require(groups,
          "factor_sweep: group must name the first coordinate of each group of neighbours, "
          "all of them factored");
}

template <typename T>
void sweep(const SweepArguments<T>& a, const Advance<T>& advance) {
  check_tables(a);
  const std::int64_t most_batch = most_rows(a);
  pack(a).run([&] { return Worker<T>(a, advance, most_batch); });
}

struct OnCpu {
  explicit OnCpu(const Tensor& /*like*/) {}
  void launch(const SweepArguments<double>& a) const {
    sweep<double>(a, {SYMFAST_PICK(advance_factors_f64), SYMFAST_PICK(advance_samples_f64),
                      SYMFAST_PICK(advance_moments_f64)});
  }
  void launch(const SweepArguments<float>& a) const {
    sweep<float>(a, {SYMFAST_PICK(advance_factors_f32), SYMFAST_PICK(advance_samples_f32),
                     SYMFAST_PICK(advance_moments_f32)});
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symfast, CPU, m) {
  m.impl("factor_sweep", TORCH_BOX(&factor_sweep<OnCpu>));
}

}  // namespace symfast
