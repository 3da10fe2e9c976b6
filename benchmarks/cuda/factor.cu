// SPDX-License-Identifier: Apache-2.0
// Product factors: products, their gradients, and steps on the factors of many weights.
#include "factor_launch.h"
#include "report.h"

namespace symfast {
namespace {

constexpr FactorRates kRates = {0.1, 0.9, 0.3};
static_assert(kFactorLr == 0 && kFactorMomentum == 1 && kFactorDecay == 2);

// Factors of n numbers and a gradient, as the device rounds them.
template <typename T>
struct HostFactors {
  int64_t depth, size;
  std::vector<std::vector<double>> factors;
  std::vector<double> gradient;

  HostFactors(int64_t d, int64_t n) : depth(d), size(n) {
    for (int64_t j = 0; j < d; ++j) {
      factors.push_back(numbers(narrowed<T>(Random(j + 1).many(n))));
    }
    gradient = numbers(narrowed<T>(Random(9).many(n)));
  }

  // The product of all factors but j; of all where j is none of them.
  double product_without(int64_t j, std::size_t i) const {
    double product = 1;
    for (int64_t e = 0; e < depth; ++e) {
      if (e != j) product *= factors[static_cast<std::size_t>(e)][i];
    }
    return product;
  }
};

template <typename T>
struct DeviceFactors {
  int64_t depth, size;
  std::vector<DeviceArray<T>> factors, outputs;
  DeviceArray<T> gradient;

  explicit DeviceFactors(const HostFactors<T>& h)
      : depth(h.depth), size(h.size), gradient(narrowed<T>(h.gradient)) {
    for (int64_t j = 0; j < depth; ++j) {
      factors.emplace_back(narrowed<T>(h.factors[static_cast<std::size_t>(j)]));
      outputs.emplace_back(size);
    }
  }
  void run(bool gradients) const {
    std::vector<const void*> in;
    std::vector<void*> out;
    for (const auto& factor : factors) in.push_back(factor.get());
    for (const auto& output : outputs) out.push_back(output.get());
    launch_factor<T>(
        {in.data(), gradients ? gradient.get() : nullptr, out.data(), depth, size, nullptr});
  }
};

template <typename T>
void run_products(Report& report, int64_t depth, bool gradients) {
  const HostFactors<T> host(depth, 4099);
  const DeviceFactors<T> small(host);
  small.run(gradients);
  double worst = 0;
  for (int64_t j = 0; j < (gradients ? depth : 1); ++j) {
    std::vector<double> wanted;
    for (std::size_t i = 0; i < host.gradient.size(); ++i) {
      wanted.push_back(gradients ? host.gradient[i] * host.product_without(j, i)
                                 : host.product_without(-1, i));
    }
    worst = std::max(worst,
                     error_of(numbers(small.outputs[static_cast<std::size_t>(j)].read()), wanted));
  }
  const int64_t n = kBigBytes / static_cast<int64_t>(sizeof(T)) / 4;
  const DeviceFactors<T> big(HostFactors<T>(depth, n));
  const double ms = milliseconds([&] { big.run(gradients); });
  const auto moved = static_cast<double>(n * (gradients ? 2 * depth + 1 : depth + 1));
  report.add({"factor " + std::string(gradients ? "gradients" : "product") + ", depth " +
                  std::to_string(depth),
              kTypeName<T>, worst, kTolerance<T>, ms, moved * sizeof(T)});
}

// Weights of one step; factors and velocities lie as (depth, size).
template <typename T>
struct DeviceSteps {
  using A = Accumulate<T>;
  std::vector<DeviceArray<T>> weights, gradients;
  std::vector<DeviceArray<A>> factors, velocities;
  std::vector<FactorItem> items;
  DeviceArray<double> settings;

  DeviceSteps(int64_t count, int64_t size, int64_t depth)
      : settings(std::vector<double>{kRates.lr, kRates.momentum, kRates.decay}) {
    for (int64_t n = 0; n < count; ++n) {
      weights.emplace_back(size);
      gradients.emplace_back(narrowed<T>(Random(1).many(size)));
      factors.emplace_back(narrowed<A>(Random(2).many(depth * size)));
      velocities.emplace_back(narrowed<A>(Random(3).many(depth * size)));
      items.push_back({weights.back().get(), gradients.back().get(), factors.back().get(),
                       velocities.back().get(), size, depth, 0});
    }
  }
  // Without a table in device memory: of few weights.
  void run() const { launch_factor_step<T>(items, settings.get(), nullptr, nullptr); }
};

// v <- m v + g prod_{e != j} f_e + c f_j, f_j <- f_j - lr v_j; the weight is their product.
template <typename T>
double step_error(const DeviceSteps<T>& device, int64_t size, int64_t depth) {
  using A = Accumulate<T>;
  const std::vector<double> g = numbers(narrowed<T>(Random(1).many(size)));
  const std::vector<double> f = numbers(narrowed<A>(Random(2).many(depth * size)));
  const std::vector<double> v = numbers(narrowed<A>(Random(3).many(depth * size)));
  std::vector<double> factors = f, velocities = v, weights(g.size(), 1.0);
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < depth; ++j) {
      const auto at = static_cast<std::size_t>(j * size + i);
      double others = g[static_cast<std::size_t>(i)];
      for (int64_t e = 0; e < depth; ++e) {
        if (e != j) others *= f[static_cast<std::size_t>(e * size + i)];
      }
      velocities[at] = kRates.momentum * v[at] + others + kRates.decay * f[at];
      factors[at] = f[at] - kRates.lr * velocities[at];
      weights[static_cast<std::size_t>(i)] *= factors[at];
    }
  }
  double worst = 0;
  for (std::size_t n = 0; n < device.weights.size(); ++n) {
    const double wide = std::max(error_of(numbers(device.factors[n].read()), factors),
                                 error_of(numbers(device.velocities[n].read()), velocities));
    if (!(wide <= kTolerance<A>)) return INFINITY;  // the weights may be coarser
    worst = std::max(worst, error_of(numbers(device.weights[n].read()), weights));
  }
  return worst;
}

// One large weight, and many small ones of two depths that need a table in device memory.
template <typename T>
void run_steps(Report& report, int64_t depth) {
  constexpr int64_t kMany = kFactorItems + 10;
  const int64_t other = depth == kMaxDepth ? 2 : depth + 1;
  const DeviceSteps<T> small(kMany, 515, depth), even(2, 4096, other);
  std::vector<FactorItem> all = small.items;
  all.insert(all.begin() + 7, even.items.begin(), even.items.end());
  const DeviceArray<int64_t> table(static_cast<int64_t>(all.size()) * kFactorWords);
  launch_factor_step<T>(all, small.settings.get(), table.get(), nullptr);
  const double error = std::max(step_error(small, 515, depth), step_error(even, 4096, other));
  const auto wide = static_cast<int64_t>(sizeof(Accumulate<T>));
  const int64_t n = kBigBytes / wide / (2 * depth) / 256 * 256;
  const DeviceSteps<T> big(1, n, depth);
  const double ms = milliseconds([&] { big.run(); });
  const auto bytes =
      static_cast<double>(n * (4 * depth * wide + 2 * static_cast<int64_t>(sizeof(T))));
  report.add({"factor step, depth " + std::to_string(depth), kTypeName<T>, error, kTolerance<T>, ms,
              bytes});
}

void run_factors(Report& report) {
  for_types([&](auto element) {
    using T = decltype(element);
    for (const int64_t depth : {2, 3, 4, 5, 6}) {
      run_products<T>(report, depth, false);
      run_products<T>(report, depth, true);
      run_steps<T>(report, depth);
    }
  });
}

const Section kFactors(run_factors);

}  // namespace
}  // namespace symfast
