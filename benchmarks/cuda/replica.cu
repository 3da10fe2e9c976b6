// SPDX-License-Identifier: Apache-2.0
// Whole trainings of two-layer networks: a replica stays on the chip where it fits, so the clock is
// in replica steps, not in bytes.
#include "replica_launch.h"
#include "report.h"

namespace symfast {
namespace {

constexpr int64_t kSteps = 5, kSamples = 40, kSeed = 3;
constexpr double kLr = 0.05, kDecay = 0.02, kMomentum = 0.8, kBeta2 = 0.95, kEpsilon = 1e-3;

struct NetworkCase {
  const char* name;
  ReplicaShape shape;
  Optimizer rule;
  int64_t batch;  // 0: all samples
};

// One training in float64: tanh units, mean squared error.
class HostTraining {
 public:
  HostTraining(const NetworkCase& c, std::vector<double> theta)
      : case_(c),
        theta_(std::move(theta)),
        first_(theta_.size(), 0),
        second_(theta_.size(), 0),
        x_(Random(1).many(kSamples * c.shape.inputs)),
        y_(Random(2).many(kSamples * c.shape.outputs)) {}

  std::vector<double> run() {
    for (int64_t step = 0; step < kSteps; ++step) {
      std::vector<double> gradient(theta_.size(), 0.0);
      const int64_t count = case_.batch > 0 ? case_.batch : kSamples;
      for (int64_t s = 0; s < count; ++s) add_sample(row_of(s, step), count, gradient);
      for (std::size_t p = 0; p < theta_.size(); ++p) update(p, gradient[p], step);
    }
    return theta_;
  }

 private:
  int64_t row_of(int64_t s, int64_t step) const {
    if (case_.batch == 0) return s;
    const auto words = random_block(batch_stream(kSeed, step), static_cast<uint64_t>(s / 4));
    return sample_of(static_cast<uint32_t>(words.word[s % 4]), kSamples);
  }

  double& at(std::vector<double>& list, int64_t i) const {
    return list[static_cast<std::size_t>(i)];
  }

  void add_sample(int64_t row, int64_t count, std::vector<double>& gradient) {
    const ReplicaShape& n = case_.shape;
    std::vector<double> active, delta(static_cast<std::size_t>(n.hidden), 0.0);
    for (int64_t j = 0; j < n.hidden; ++j) {
      double z = n.bias ? at(theta_, n.bias1() + j) : 0;
      for (int64_t i = 0; i < n.inputs; ++i) {
        z += at(theta_, j * n.inputs + i) * at(x_, row * n.inputs + i);
      }
      active.push_back(std::tanh(z));
    }
    for (int64_t o = 0; o < n.outputs; ++o) {
      double error = (n.bias ? at(theta_, n.bias2() + o) : 0) - at(y_, row * n.outputs + o);
      for (int64_t j = 0; j < n.hidden; ++j) {
        error += at(theta_, n.weight2() + o * n.hidden + j) * at(active, j);
      }
      error *= 2.0 / static_cast<double>(count * n.outputs);
      if (n.bias) at(gradient, n.bias2() + o) += error;
      for (int64_t j = 0; j < n.hidden; ++j) {
        at(gradient, n.weight2() + o * n.hidden + j) += error * at(active, j);
        at(delta, j) += error * at(theta_, n.weight2() + o * n.hidden + j);
      }
    }
    for (int64_t j = 0; j < n.hidden; ++j) {
      const double g = at(delta, j) * (1 - at(active, j) * at(active, j));
      if (n.bias) at(gradient, n.bias1() + j) += g;
      for (int64_t i = 0; i < n.inputs; ++i) {
        at(gradient, j * n.inputs + i) += g * at(x_, row * n.inputs + i);
      }
    }
  }

  void update(std::size_t p, double g, int64_t step) {
    double &theta = theta_[p], &m = first_[p], &v = second_[p];
    if (case_.rule == Optimizer::sgd) {
      m = kMomentum * m + g + kDecay * theta;
      theta -= kLr * m;
      return;
    }
    theta *= 1 - kLr * kDecay;  // adamw
    m += (1 - kMomentum) * (g - m);
    v = kBeta2 * v + (1 - kBeta2) * g * g;
    const auto t = static_cast<double>(step + 1);
    theta -= kLr * (m / (1 - std::pow(kMomentum, t))) /
             (std::sqrt(v / (1 - std::pow(kBeta2, t))) + kEpsilon);
  }

  const NetworkCase& case_;
  std::vector<double> theta_, first_, second_, x_, y_;
};

template <typename T>
struct DeviceTraining {
  const NetworkCase& what;
  int64_t replicas, parameters;
  std::vector<double> start;
  DeviceArray<T> x, y, theta, first, second, rates, schedule, gradient;
  DeviceArray<int64_t> kind, seed, cell, batch, constraint, status, taken, progress, offsets;

  DeviceTraining(const NetworkCase& c, int64_t count)
      : what(c),
        replicas(count),
        parameters(c.shape.parameters()),
        start(numbers(narrowed<T>(weights()))),
        x(narrowed<T>(Random(1).many(kSamples * c.shape.inputs))),
        y(narrowed<T>(Random(2).many(kSamples * c.shape.outputs))),
        theta(narrowed<T>(start)),
        first(count * parameters, 0),
        second(count * parameters, 0),
        rates(narrowed<T>(rate_table())),
        schedule(std::vector<T>(kSteps, T(1))),
        gradient(count * parameters),
        kind(count, 0),
        seed(std::vector<int64_t>(static_cast<std::size_t>(count), kSeed)),
        cell(count, 0),
        batch(std::vector<int64_t>(static_cast<std::size_t>(count), c.batch)),
        constraint(count, 0),
        status(count, 0),
        taken(count, 0),
        progress(2, 0),
        offsets(1, 0) {}

  void run(int64_t most_shared) const {
    ReplicaArguments<T> a{};
    a.x = x.get();
    a.y = y.get();
    a.theta = theta.get();
    a.first = first.get();
    a.second = second.get();
    a.rates = rates.get();
    a.schedule = schedule.get();
    a.kind = kind.get();
    a.seed = seed.get();
    a.cell = cell.get();
    a.batch = batch.get();
    a.constraint = constraint.get();
    a.status = status.get();
    a.taken = taken.get();
    a.gradient = gradient.get();
    a.progress = progress.get();
    a.mirrors.offsets = offsets.get();
    a.model = {what.shape, Activation::tanh, Loss::mse, what.rule};
    a.samples = kSamples;
    a.kinds = 1;
    a.replicas = replicas;
    a.steps = kSteps;
    launch_replicas(a, nullptr, most_shared);
  }

 private:
  std::vector<double> weights() const {
    std::vector<double> found = Random(3).many(replicas * parameters);
    for (double& w : found) w /= std::sqrt(static_cast<double>(what.shape.hidden));
    return found;
  }
  std::vector<double> rate_table() const {
    std::vector<double> table;
    for (int64_t row = 0; row < kRates; ++row) {
      const double value = row == static_cast<int64_t>(Rate::lr)         ? kLr
                           : row == static_cast<int64_t>(Rate::decay)    ? kDecay
                           : row == static_cast<int64_t>(Rate::momentum) ? kMomentum
                           : row == static_cast<int64_t>(Rate::beta2)    ? kBeta2
                           : row == static_cast<int64_t>(Rate::epsilon)  ? kEpsilon
                                                                         : 0;
      table.insert(table.end(), static_cast<std::size_t>(replicas), value);
    }
    return table;
  }
};

// Weights in shared memory, then in global memory.
template <typename T>
void run_case(Report& report, const NetworkCase& what, bool shared) {
  const int64_t most = shared ? most_shared_bytes() : 0;
  const DeviceTraining<T> small(what, 3);
  small.run(most);
  std::vector<double> wanted;
  for (int64_t b = 0; b < 3; ++b) {
    const auto begin = small.start.begin() + b * small.parameters;
    const auto theta = HostTraining(what, {begin, begin + small.parameters}).run();
    wanted.insert(wanted.end(), theta.begin(), theta.end());
  }
  const double error = error_of(numbers(small.theta.read()), wanted);
  const DeviceTraining<T> big(what, kBigBytes / 65536 + 1);
  const double ms = milliseconds([&] { big.run(most); });
  report.add({std::string("replica ") + what.name + (shared ? ", shared" : ", global") + ", " +
                  std::to_string(big.replicas * kSteps) + " steps",
              kTypeName<T>, error, 20 * kTolerance<T>, ms, 0});
}

void run_replicas(Report& report) {
  const NetworkCase cases[] = {
      {"5-11-3 sgd", {5, 11, 3, true}, Optimizer::sgd, 0},
      {"20-32-1 adamw, batch 24", {20, 32, 1, true}, Optimizer::adamw, 24},
      {"64-100-10 sgd, batch 16", {64, 100, 10, false}, Optimizer::sgd, 16},
  };
  for (const NetworkCase& what : cases) {
    for (const bool shared : {true, false}) {
      run_case<double>(report, what, shared);
      run_case<float>(report, what, shared);
    }
  }
}

const Section kReplicas(run_replicas);

}  // namespace
}  // namespace symfast
