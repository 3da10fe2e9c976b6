// SPDX-License-Identifier: Apache-2.0
// The verbs of plans: every kind of frame, type and verb, checked against plan_reference.h.
#include "plan_prox_group_launch.h"
#include "plan_tables.h"
#include "report.h"

namespace symfast {
namespace {

// A plan on the device with its parameters, and a call of any verb.
template <typename T>
class DevicePlan {
 public:
  using A = Accumulate<T>;

  DevicePlan(const HostPlan& plan, const std::vector<std::vector<double>>* values)
      : tables_(plan.in_place && plan.partials == plan.mirrors
                    ? SumTables()
                    : SumTables(plan.tasks.data(), plan.chunks.data(),
                                static_cast<int64_t>(plan.chunks.size()), plan.mirrors)),
        tasks_(plan.tasks),
        chunks_(plan.chunks),
        index_(plan.index),
        frames_(narrowed<A>(plan.frames)),
        out_(plan.output),
        words_(tables_.words),
        workspace_(plan.partials + tables_.sizes.parts),
        partials_(plan.partials),
        mirrors_(plan.mirrors),
        tag_(new_tag()),
        sums_(plan.mirrors),
        prox_workspace_(prox_group_numbers(tables_.sizes, plan.partials, plan.mirrors)),
        pointers_(static_cast<int64_t>(plan.sizes.size())),
        chunk_count_(static_cast<int64_t>(plan.chunks.size())),
        gathered_(gathered_units(plan.tasks.data(), plan.chunks.data(), chunk_count_)),
        dense_(plan.dense()) {
    for (std::size_t n = 0; n < plan.sizes.size(); ++n) {
      if (values) {
        data_.emplace_back(narrowed<T>((*values)[n]));
      } else {
        data_.emplace_back(plan.sizes[n], 0x3c);  // small numbers in every type
      }
      addresses_.push_back(data_.back().get());
    }
  }

  PlanLaunch call(const A* amounts, double amount) const {
    PlanLaunch call{reinterpret_cast<const int64_t*>(tasks_.get()),
                    reinterpret_cast<const int64_t*>(chunks_.get()),
                    index_.get(),
                    chunk_count_,
                    frames_.get(),
                    dense_,
                    amounts,
                    amount,
                    amounts ? kPerMirror : kUniform,
                    out_.get(),
                    nullptr,
                    addresses_,
                    pointers_.get(),
                    nullptr};
    call.gathered = gathered_;
    return call;
  }

  template <Verb verb>
  void run(const A* amounts, double amount) const {
    if constexpr (verb == kNorms) {
      launch_norms<T>(call(nullptr, 0), {words_.get(), tables_.sizes, sums_.get(), workspace_.get(),
                                         partials_, tag_, false, nullptr, false});
    } else {
      launch_plan<verb, T>(call(amounts, amount));
    }
  }

  void prox_group(double threshold) const {
    launch_prox_group<T>(call(nullptr, 0), {nullptr, threshold, words_.get(), tables_.sizes,
                                            partials_, mirrors_, prox_workspace_.get(), tag_});
  }

  // What the verb left, beside what it should have left.
  double error(Verb verb, const HostResult& wanted) const {
    if (verb == kCoefficients) return error_of(numbers(out_.read()), wanted.coefficients);
    if (verb == kNorms) return error_of(sums_.read(), wanted.norms);
    double worst = 0;
    for (std::size_t n = 0; n < data_.size(); ++n) {
      worst = std::max(worst, error_of(numbers(data_[n].read()), wanted.data[n]));
    }
    return worst;
  }

 private:
  SumTables tables_;
  DeviceArray<Task> tasks_;
  DeviceArray<Chunk> chunks_;
  DeviceArray<int64_t> index_;
  DeviceArray<A> frames_, out_;
  DeviceArray<int64_t> words_;
  DeviceArray<double> workspace_;
  int64_t partials_, mirrors_, tag_;  // one tag for every call, as a graph replays it
  DeviceArray<double> sums_, prox_workspace_;
  DeviceArray<int64_t> pointers_;
  int64_t chunk_count_, gathered_;
  bool dense_;
  std::vector<DeviceArray<T>> data_;
  std::vector<void*> addresses_;
};

HostPlan plan_of(const PlanShape& shape, int tensors, bool exact) {
  HostPlan plan;
  for (int n = 0; n < tensors; ++n) add_task(plan, shape, exact);
  return plan;
}

// Largest error of a verb on small tensors, with one amount and with an amount per mirror.
template <Verb verb, typename T>
double worst_error(const PlanShape& shape, int tensors) {
  using A = Accumulate<T>;
  HostPlan plan = plan_of(shape, tensors, true);
  plan.frames = numbers(narrowed<A>(plan.frames));
  Random random(3);
  std::vector<std::vector<double>> values;
  for (const int64_t size : plan.sizes) values.push_back(numbers(narrowed<T>(random.many(size))));
  std::vector<double> amounts = numbers(narrowed<A>(random.many(plan.mirrors)));
  for (double& t : amounts) t = std::abs(t) / 2;
  const DeviceArray<A> given(narrowed<A>(amounts));
  double worst = 0;
  for (const bool by_mirror : {false, true}) {
    HostResult wanted{values, {}, {}};
    apply_reference(plan, verb, {by_mirror ? &amounts : nullptr, 0.25}, wanted);
    const DevicePlan<T> device(plan, &values);
    for (int again = verb == kNorms ? 5 : 1; again > 0; --again) {  // as a graph replays it
      device.template run<verb>(by_mirror ? given.get() : nullptr, 0.25);
      worst = std::max(worst, device.error(verb, wanted));
    }
  }
  return worst;
}

// Largest error of group prox on small tensors.
template <typename T>
double worst_prox_group(const PlanShape& shape, int tensors) {
  HostPlan plan = plan_of(shape, tensors, true);
  plan.frames = numbers(narrowed<Accumulate<T>>(plan.frames));
  Random random(5);
  std::vector<std::vector<double>> values;
  for (const int64_t size : plan.sizes) values.push_back(numbers(narrowed<T>(random.many(size))));
  HostResult wanted{values, {}, {}};
  apply_reference(plan, kNorms, {nullptr, 0}, wanted);
  std::vector<double> amounts;
  for (const double squares : wanted.norms) {
    amounts.push_back(group_shrinkage(std::sqrt(squares), 0.25));
  }
  apply_reference(plan, kShrink, {&amounts, 0}, wanted);
  const DevicePlan<T> device(plan, &values);
  device.prox_group(0.25);
  return device.error(kShrink, wanted);
}

// Bytes that a verb cannot do without.
template <typename T>
double ideal_bytes(const HostPlan& plan, Verb verb) {
  constexpr double kSum = sizeof(Accumulate<T>);
  double bytes = plan.touched * sizeof(T) * (verb <= kProx ? 2 : 1);
  if (verb == kCoefficients) bytes += static_cast<double>(plan.output) * kSum;
  return bytes + static_cast<double>(plan.frames.size()) * kSum;
}

// `small` is checked, the same shape with many more columns or rows is timed.
template <typename T>
void run_shape(Report& report, const PlanShape& small, int tensors) {
  PlanShape big = small;
  const int64_t share = small.own ? 4 : 1;  // own frames take several times the tensor
  const int64_t elements = kBigBytes / static_cast<int64_t>(sizeof(T)) / share;
  if (small.inner == 1) {
    big.units = small.kind == kDense ? 256 : 1024;
    big.outer = elements / big.units;
  } else {
    big.units = small.kind == kDense ? 256 : 4096;
    big.outer = 1;
    big.inner = elements / big.units;
  }
  if (tensors > 1) big = small;
  const HostPlan plan = plan_of(big, tensors, false);
  const DevicePlan<T> device(plan, nullptr);
  for_verbs<kNorms>([&](auto v) {
    constexpr Verb verb = decltype(v)::value;
    using Out = std::conditional_t<(verb >= kCoefficients), Accumulate<T>, T>;
    const double error = worst_error<verb, T>(small, tensors);
    const double ms = milliseconds([&] { device.template run<verb>(nullptr, 0.25); });
    report.add({std::string("plan ") + small.name + " " + kVerbNames[verb], kTypeName<T>, error,
                kTolerance<Out>, ms, tensors > 1 ? 0 : ideal_bytes<T>(plan, verb)});
  });
  const double error = worst_prox_group<T>(small, tensors);
  const double ms = milliseconds([&] { device.prox_group(0.25); });
  report.add({std::string("plan ") + small.name + " group prox", kTypeName<T>, error, kTolerance<T>,
              ms, tensors > 1 ? 0 : ideal_bytes<T>(plan, kShrink)});
}

void run_plans(Report& report) {
  const PlanShape shapes[] = {
      {"rows", kRows, 1, 53, 68, 0, false},
      {"rows, units last", kRows, 41, 52, 1, 0, false},
      {"rows, odd", kRows, 3, 7, 5, 0, false},
      {"rows in several blocks", kRows, 700, 68, 1, 0, false},
      {"rows, scattered", kRowsScattered, 1, 53, 64, 0, false},
      {"rows, gathered, units last", kRowsScattered, 41, 52, 1, 0, false},
      {"pairs", kPairs, 1, 54, 72, 0, false},
      {"pairs, scattered", kPairsScattered, 1, 54, 33, 0, false},
      {"pairs, gathered, units last", kPairsScattered, 41, 52, 1, 0, false},
      {"pairs, gathered, units last, odd", kPairsScattered, 13, 45, 1, 0, false},
      {"clusters", kClusters, 1, 43, 64, 0, false},
      {"clusters, units last", kClusters, 41, 52, 1, 0, false},
      {"clusters, odd", kClusters, 1, 21, 5, 0, false},
      {"direction", kDense, 1, 100, 136, 5, false},
      {"direction, units last", kDense, 61, 100, 1, 5, false},
      {"direction, odd", kDense, 3, 33, 7, 3, false},
      {"direction in several blocks", kDense, 1, 100, 400, 5, false},
      {"mirror", kDense, 50, 64, 1, 4, true},
  };
  for_types([&](auto element) {
    for (const PlanShape& shape : shapes) run_shape<decltype(element)>(report, shape, 1);
    run_shape<decltype(element)>(report, {"many tensors", kRows, 1, 6, 4, 0, false}, 500);
  });
}

const Section kPlans(run_plans);

}  // namespace
}  // namespace symfast
