// SPDX-License-Identifier: Apache-2.0
// Steps of the optimizers on lists of parameters.
#include "report.h"
#include "update_launch.h"

namespace symfast {
namespace {

constexpr double kCount = 4;  // the step that is taken, from 1 on

struct UpdateCase {
  const char* name;
  Rule rule;
  double row[kSettings];

  int64_t states() const { return rule == kAdam ? 2 : row[kFirst] != 0 ? 1 : 0; }
  bool counts() const { return rule == kAdam || row[kNoise] != 0; }
};

// lr, decay, decoupled, momentum or beta1, 1 - dampening or beta2, eps, nesterov, sign, noise,
// sigma, spread
constexpr UpdateCase kCases[] = {
    {"sgd", kSgd, {0.1, 0, 0, 0, 1, 0, 0, 1, 0, -1, 0}},
    {"sgd nesterov, decay", kSgd, {0.1, 0.3, 0, 0.9, 1, 0, 1, 1, 0, -1, 0}},
    {"sgd noise", kSgd, {0.1, 0, 0, 0, 1, 0, 0, 1, 0.5, -1, 0}},
    {"adam", kAdam, {0.1, 0.3, 0, 0.9, 0.99, 1e-8, 0, 1, 0, -1, 0}},
    {"adamw", kAdam, {0.1, 0.3, 1, 0.9, 0.99, 1e-8, 0, 1, 0, -1, 0}},
    {"sgd anchor", kSgd, {0.1, 0.3, 0, 0.9, 1, 0, 0, 1, 0, 0.5, 0}},
    {"adamw anchor noise", kAdam, {0.1, 0.3, 1, 0.9, 0.99, 1e-8, 0, 1, 0.1, 0.5, 0.4}},
};

// One parameter on the host: value, gradient, first and second state.
struct HostParameter {
  std::vector<double> p, g, m, v;

  template <typename T>
  static HostParameter of(int64_t size, T) {
    HostParameter h{Random(1).many(size), Random(2).many(size), Random(3).many(size),
                    Random(4).many(size)};
    for (double& x : h.v) x *= x;
    for (auto* list : {&h.p, &h.g, &h.m, &h.v}) *list = numbers(narrowed<T>(*list));
    return h;
  }

  // What decay pulls towards zero: the distance from the anchor times its strength.
  double away(const double* row, uint32_t number, std::size_t i) const {
    if (row[kSigma] < 0) return p[i];
    const AnchorKeys keys = anchor_keys(8, number, static_cast<int64_t>(i));
    const uint32_t word = anchor_word(static_cast<uint32_t>(i) + keys.key[0], keys.key[1]);
    const double spread = row[kSpread] * double{word_spread<float>(word)};
    return (1 + spread) * (p[i] - row[kSigma] * double{word_normal<float>(word)});
  }

  // The formulas of update.h in their usual words.
  void step(const UpdateCase& c, uint32_t number) {
    const double* row = c.row;
    const RandomStream stream{7, kGradientNoise, number, static_cast<uint32_t>(kCount)};
    for (std::size_t i = 0; i < p.size(); ++i) {
      double grad = g[i] * row[kGradientSign];
      if (row[kNoise] != 0) {
        grad += row[kNoise] * double{noise_normal(stream, static_cast<int64_t>(i))};
      }
      const double pull = row[kDecayRate] * away(row, number, i);
      if (row[kDecoupledDecay] != 0) {
        p[i] -= row[kLr] * pull;
      } else {
        grad += pull;
      }
      if (c.rule == kAdam) {
        m[i] = row[kFirst] * m[i] + (1 - row[kFirst]) * grad;
        v[i] = row[kSecond] * v[i] + (1 - row[kSecond]) * grad * grad;
        const double mean = m[i] / (1 - std::pow(row[kFirst], kCount));
        const double square = v[i] / (1 - std::pow(row[kSecond], kCount));
        p[i] -= row[kLr] * mean / (std::sqrt(square) + row[kEps]);
      } else {
        if (row[kFirst] != 0) {
          m[i] = row[kFirst] * m[i] + row[kSecond] * grad;
          grad = row[kNesterovForm] != 0 ? grad + row[kFirst] * m[i] : m[i];
        }
        p[i] -= row[kLr] * grad;
      }
    }
  }
};

template <typename T>
struct DeviceUpdate {
  const UpdateCase& what;
  std::vector<DeviceArray<T>> p, g, m, v;
  std::vector<DeviceArray<float>> steps;
  DeviceArray<double> settings;
  std::vector<int64_t> host_keys;
  DeviceArray<int64_t> keys, table;
  mutable std::vector<int64_t> words;

  DeviceUpdate(const UpdateCase& c, const std::vector<int64_t>& sizes)
      : what(c),
        settings(std::vector<double>(c.row, c.row + kSettings)),
        host_keys(keys_of(sizes.size())),
        keys(host_keys),
        table(static_cast<int64_t>(sizes.size()) * kUpdateWords) {
    for (const int64_t size : sizes) {
      const HostParameter h = HostParameter::of(size, T{});
      p.emplace_back(narrowed<T>(h.p));
      g.emplace_back(narrowed<T>(h.g));
      if (c.states() > 0) m.emplace_back(narrowed<T>(h.m));
      if (c.states() > 1) v.emplace_back(narrowed<T>(h.v));
      if (c.counts()) steps.emplace_back(std::vector<float>{static_cast<float>(kCount) - 1});
      add_words(size);
    }
  }
  void run() const {
    launch_update<T>({what.rule, what.counts(), 1, settings.get(), keys.get(), nullptr, nullptr,
                      words, table.get(), nullptr});
  }

 private:
  static std::vector<int64_t> keys_of(std::size_t count) {
    std::vector<int64_t> found;
    for (std::size_t n = 0; n < count; ++n) {
      for (const int64_t key : {int64_t{0}, int64_t{7}, int64_t{8}, static_cast<int64_t>(n)}) {
        found.push_back(key);
      }
    }
    return found;
  }
  void add_words(int64_t size) {
    const auto add = [&](const auto& list) {
      words.push_back(list.empty() ? 0 : reinterpret_cast<int64_t>(list.back().get()));
    };
    add(p);
    add(g);
    add(m);
    add(v);
    add(steps);
    words.push_back(size);
    words.push_back(0);
  }
};

// Ragged sizes; and more tensors than travel as arguments.
template <typename T>
double error_of_step(const UpdateCase& what, const std::vector<int64_t>& sizes) {
  const DeviceUpdate<T> device(what, sizes);
  device.run();
  double worst = 0;
  for (std::size_t n = 0; n < sizes.size(); ++n) {
    HostParameter h = HostParameter::of(sizes[n], T{});
    h.step(what, static_cast<uint32_t>(n));
    worst = std::max(worst, error_of(numbers(device.p[n].read()), h.p));
    if (!device.m.empty()) worst = std::max(worst, error_of(numbers(device.m[n].read()), h.m));
    if (!device.v.empty()) worst = std::max(worst, error_of(numbers(device.v[n].read()), h.v));
    if (!device.steps.empty() && device.steps[n].read()[0] != static_cast<float>(kCount)) {
      return INFINITY;
    }
  }
  return worst;
}

template <typename T>
void run_case(Report& report, const UpdateCase& what) {
  const double error = std::max(error_of_step<T>(what, {15, 0, 9001, 64}),
                                error_of_step<T>(what, std::vector<int64_t>(70, 33)));
  const int64_t n = kBigBytes / static_cast<int64_t>(sizeof(T)) / (2 + what.states());
  const DeviceUpdate<T> big(what, {n});
  const double ms = milliseconds([&] { big.run(); });
  const auto bytes = static_cast<double>(n * (3 + 2 * what.states())) * sizeof(T);
  report.add(
      {std::string("update ") + what.name, kTypeName<T>, error, 2 * kTolerance<T>, ms, bytes});
}

void run_updates(Report& report) {
  for_types([&](auto element) {
    for (const UpdateCase& what : kCases) run_case<decltype(element)>(report, what);
  });
}

const Section kUpdates(run_updates);

}  // namespace
}  // namespace symfast
