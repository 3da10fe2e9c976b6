// SPDX-License-Identifier: Apache-2.0
// Product-factor sweeps: replicas stay on the chip, so the clock is in replica steps, not in bytes.
#include "factor_sweep_launch.h"
#include "report.h"

namespace symfast {
namespace {

constexpr int64_t kSteps = 25;

struct SweepShape {
  int64_t replicas, depth, d;
};

// Random problems, the same Gram matrix (symmetric, eigenvalues in (0, 2)) for all replicas.
struct HostSweep {
  SweepShape shape;
  std::vector<double> gram, linear, factors, lr, momentum, lam;
  std::vector<int64_t> depth;

  explicit HostSweep(const SweepShape& s)
      : shape(s),
        gram(static_cast<std::size_t>(s.d * s.d), 0.0),
        linear(Random(1).many(s.d)),
        factors(Random(2).many(s.replicas * s.depth * s.d)),
        lr(static_cast<std::size_t>(s.replicas), 0.02),
        momentum(static_cast<std::size_t>(s.replicas), 0.5),
        lam(static_cast<std::size_t>(s.replicas), 0.01) {
    for (int64_t i = 0; i < s.d; ++i) {
      for (int64_t j = 0; j < s.d; ++j) {
        gram[static_cast<std::size_t>(i * s.d + j)] =
            i == j ? 1.0 : 0.5 / static_cast<double>(s.d) * std::cos(static_cast<double>(i + j));
      }
    }
    for (int64_t b = 0; b < s.replicas; ++b) depth.push_back(1 + b % s.depth);
  }
};

// One replica: v_j <- m v_j + g prod_{e != j} f_e + c f_j, f_j <- f_j - lr v_j, c = 2 lam / depth.
std::vector<double> weights_of(const HostSweep& h, int64_t b, int64_t steps) {
  const int64_t d = h.shape.d, slots = h.shape.depth, used = h.depth[static_cast<std::size_t>(b)];
  std::vector<double> f(h.factors.begin() + b * slots * d, h.factors.begin() + (b + 1) * slots * d);
  std::vector<double> v(f.size(), 0.0), w(static_cast<std::size_t>(d), 1.0);
  const auto multiply = [&] {
    for (int64_t i = 0; i < d; ++i) {
      double product = 1;
      for (int64_t j = 0; j < used; ++j) product *= f[static_cast<std::size_t>(j * d + i)];
      w[static_cast<std::size_t>(i)] = product;
    }
  };
  const double decay = 2 * h.lam[0] / static_cast<double>(used);
  multiply();
  for (int64_t step = 0; step < steps; ++step) {
    const std::vector<double> before = f;
    for (int64_t i = 0; i < d; ++i) {
      double g = -h.linear[static_cast<std::size_t>(i)];
      for (int64_t j = 0; j < d; ++j) {
        g += h.gram[static_cast<std::size_t>(i * d + j)] * w[static_cast<std::size_t>(j)];
      }
      for (int64_t j = 0; j < used; ++j) {
        const auto at = static_cast<std::size_t>(j * d + i);
        double others = 1;
        for (int64_t e = 0; e < used; ++e) {
          if (e != j) others *= before[static_cast<std::size_t>(e * d + i)];
        }
        v[at] = h.momentum[0] * v[at] + g * others + decay * before[at];
        f[at] = before[at] - h.lr[0] * v[at];
      }
    }
    multiply();
  }
  return w;
}

template <typename T>
struct DeviceSweep {
  SweepShape shape;
  DeviceArray<T> gram, linear, lr, momentum, lam, schedule, weight, factors, velocity, residual;
  DeviceArray<bool> factored;
  DeviceArray<int64_t> depth, kind, steps_used, status, progress;

  explicit DeviceSweep(const HostSweep& h)
      : shape(h.shape),
        gram(narrowed<T>(h.gram)),
        linear(narrowed<T>(h.linear)),
        lr(narrowed<T>(h.lr)),
        momentum(narrowed<T>(h.momentum)),
        lam(narrowed<T>(h.lam)),
        schedule(std::vector<T>(kSteps, T(1))),
        weight(shape.replicas * shape.d),
        factors(narrowed<T>(h.factors)),
        velocity(shape.replicas * shape.depth * shape.d, 0),
        residual(shape.replicas),
        factored(shape.d, 1),
        depth(h.depth),
        kind(shape.replicas, 0),
        steps_used(shape.replicas),
        status(shape.replicas),
        progress(2, 0) {}

  void run() const {
    const SweepArguments<T> a{gram.get(),
                              linear.get(),
                              factored.get(),
                              depth.get(),
                              lr.get(),
                              momentum.get(),
                              lam.get(),
                              schedule.get(),
                              kind.get(),
                              schedule.get(),
                              kind.get(),
                              nullptr,
                              weight.get(),
                              factors.get(),
                              velocity.get(),
                              steps_used.get(),
                              residual.get(),
                              status.get(),
                              progress.get(),
                              {},
                              {},
                              1,
                              1,
                              shape.replicas,
                              shape.d,
                              shape.depth,
                              kSteps,
                              10,
                              T(0)};
    launch_sweep(a, nullptr, most_shared_bytes());
  }
};

template <typename T>
void run_shape(Report& report, const SweepShape& small) {
  const HostSweep host(small);
  const DeviceSweep<T> device(host);
  device.run();
  std::vector<double> wanted;
  for (int64_t b = 0; b < small.replicas; ++b) {
    const std::vector<double> w = weights_of(host, b, kSteps);
    wanted.insert(wanted.end(), w.begin(), w.end());
  }
  const double error = error_of(numbers(device.weight.read()), wanted);
  const SweepShape big{kBigBytes / 4096 / small.d + 1, small.depth, small.d};
  const DeviceSweep<T> timed{HostSweep(big)};
  const double ms = milliseconds([&] { timed.run(); });
  char name[80];
  std::snprintf(name, sizeof name, "sweep d %lld depth %lld, %lld steps",
                static_cast<long long>(big.d), static_cast<long long>(big.depth),
                static_cast<long long>(big.replicas * kSteps));
  report.add({name, kTypeName<T>, error, 10 * kTolerance<T>, ms, 0});
}

// Teams of 8, 16 and 32 threads, and whole blocks; each with every number of factor slots.
void run_sweeps(Report& report) {
  for (const int64_t depth : {2, 4, 6}) {
    for (const int64_t d : {5, 13, 32, 270}) {
      run_shape<double>(report, {9, depth, d});
      run_shape<float>(report, {9, depth, d});
    }
  }
}

const Section kSweeps(run_sweeps);

}  // namespace
}  // namespace symfast
