// SPDX-License-Identifier: Apache-2.0
// The functional mirror verbs on theta (groups, rows, d) and O (groups, d, k).
#include "mirror_launch.h"
#include "plan_reference.h"
#include "report.h"

namespace symfast {
namespace {

struct MirrorShape {
  const char* name;
  int64_t groups, rows, d, k;
  int64_t big_groups, big_rows;  // where it is timed: 0, as many as fill kBigBytes
};

// c_j = sum_i O_ij x_i, and x + O (f(c) - c); group prox scales c by max(0, 1 - t / ||c||).
void apply_row(const MirrorShape& s, Verb verb, bool group, const double* frame, double t,
               const double* x, double* out) {
  std::vector<double> c(static_cast<std::size_t>(s.k), 0.0);
  double square = 0;
  for (int64_t j = 0; j < s.k; ++j) {
    double& sum = c[static_cast<std::size_t>(j)];
    for (int64_t i = 0; i < s.d; ++i) sum += frame[i * s.k + j] * x[i];
    square += sum * sum;
  }
  if (verb == kCoefficients) {
    for (int64_t j = 0; j < s.k; ++j) out[j] = c[static_cast<std::size_t>(j)];
    return;
  }
  const double norm = std::sqrt(square), factor = norm <= t ? 0 : 1 - t / norm;
  if (verb == kNorms) {
    out[0] = norm;
    return;
  }
  for (int64_t i = 0; i < s.d; ++i) out[i] = x[i];
  for (int64_t j = 0; j < s.k; ++j) {
    const double value = c[static_cast<std::size_t>(j)];
    const double step = (group ? value * factor : changed(verb, value, t)) - value;
    for (int64_t i = 0; i < s.d; ++i) out[i] += frame[i * s.k + j] * step;
  }
}

// (groups, d, k) to (groups, k, d).
std::vector<double> transposed(const MirrorShape& s, const std::vector<double>& frames) {
  std::vector<double> result(frames.size());
  for (int64_t g = 0; g < s.groups; ++g) {
    for (int64_t i = 0; i < s.d; ++i) {
      for (int64_t j = 0; j < s.k; ++j) {
        result[static_cast<std::size_t>((g * s.k + j) * s.d + i)] =
            frames[static_cast<std::size_t>((g * s.d + i) * s.k + j)];
      }
    }
  }
  return result;
}

// Everything a call needs, on the device. F: the type of O as the launcher wants it.
template <typename T, typename F>
struct DeviceMirror {
  using A = Accumulate<T>;
  MirrorShape shape;
  int stage_bytes;
  std::vector<double> theta, frames, amounts;  // as rounded
  DeviceArray<T> theta_there, out;
  DeviceArray<F> frames_there;
  DeviceArray<A> amounts_there, norms;

  explicit DeviceMirror(const MirrorShape& s)
      : shape(s),
        stage_bytes(stage_bytes_for(s.d, s.k, sizeof(A), most_shared_bytes())),
        theta(numbers(narrowed<T>(Random(1).many(s.groups * s.rows * s.d)))),
        frames(Random(2).many(s.groups * s.d * s.k)),
        amounts(numbers(narrowed<A>(Random(3).many(s.groups * s.rows)))),
        theta_there(narrowed<T>(theta)),
        out(s.groups * s.rows * (s.d > s.k ? s.d : s.k)),
        frames_there(rounded_frames()),
        amounts_there(absolute()),
        norms(s.groups * s.rows) {}

  template <Verb verb>
  void run(bool group) const {
    void* const to = verb == kNorms ? static_cast<void*>(norms.get()) : out.get();
    launch_mirror<verb, T, F>({theta_there.get(), frames_there.get(), amounts_there.get(), to,
                               shape.groups, shape.rows, shape.d, shape.k, stage_bytes == 0, false,
                               group, stage_bytes, nullptr});
  }

  double error(Verb verb, bool group) const {
    const int64_t width = verb == kNorms ? 1 : verb == kCoefficients ? shape.k : shape.d;
    std::vector<double> wanted(static_cast<std::size_t>(shape.groups * shape.rows * width));
    for (int64_t n = 0; n < shape.groups * shape.rows; ++n) {
      apply_row(shape, verb, group, frames.data() + n / shape.rows * shape.d * shape.k,
                amounts[static_cast<std::size_t>(n)], theta.data() + n * shape.d,
                wanted.data() + n * width);
    }
    std::vector<double> got = verb == kNorms ? numbers(norms.read()) : numbers(out.read());
    got.resize(wanted.size());
    return error_of(got, wanted);
  }

 private:
  // Small numbers: columns need not be orthonormal for the formula, but nothing should grow.
  std::vector<F> rounded_frames() {
    const double scale = 1 / std::sqrt(static_cast<double>(shape.d));
    for (double& x : frames) x = number(rounded<F>(x * scale));
    return narrowed<F>(stage_bytes == 0 ? transposed(shape, frames) : frames);
  }
  std::vector<A> absolute() {
    for (double& t : amounts) t = std::abs(t) / 2;
    return narrowed<A>(amounts);
  }
};

template <typename T, typename F>
void run_shape(Report& report, const MirrorShape& shape) {
  const DeviceMirror<T, F> small(shape);
  MirrorShape size = shape;
  const int64_t rows = kBigBytes / static_cast<int64_t>(sizeof(T)) / shape.d;
  size.groups = shape.big_groups > 0 ? shape.big_groups : rows / shape.big_rows / (1 + shape.k);
  size.rows = shape.big_rows > 0 ? shape.big_rows : rows / shape.big_groups;
  const DeviceMirror<T, F> big(size);
  const double theta = static_cast<double>(size.groups * size.rows) * sizeof(T);
  const double frames = static_cast<double>(size.groups * size.d * size.k) * sizeof(F);
  const std::string frame_type = sizeof(F) == sizeof(T) ? "" : " (O float32)";
  const auto one = [&](auto v, bool group) {
    constexpr Verb verb = decltype(v)::value;
    small.template run<verb>(group);
    const double error = small.error(verb, group);
    const double ms = milliseconds([&] { big.template run<verb>(group); });
    using Out = std::conditional_t<verb == kNorms, Accumulate<T>, T>;
    const double written = verb == kNorms
                               ? double(sizeof(Out)) / sizeof(T)
                               : static_cast<double>(verb == kCoefficients ? size.k : size.d);
    report.add({std::string("mirror ") + shape.name + " " + kVerbNames[verb] +
                    (group ? " group" : "") + frame_type,
                kTypeName<T>, error, kTolerance<Out>, ms,
                theta * (static_cast<double>(size.d) + written) + frames});
  };
  for_verbs<kNorms>([&](auto v) { one(v, false); });
  one(std::integral_constant<Verb, kProx>{}, true);
}

void run_mirrors(Report& report) {
  const MirrorShape staged[] = {
      {"(many, 1, 64) k = 4", 50, 1, 64, 4, 0, 1},
      {"(1, many, 1024) k = 3", 1, 50, 1024, 3, 1, 0},
      {"(2, many, 33) k = 5", 2, 7, 33, 5, 2, 0},
  };
  const MirrorShape large = {"(1, many, 8192) k = 8", 1, 5, 8192, 8, 1, 0};
  for_types([&](auto element) {
    using T = decltype(element);
    for (const MirrorShape& shape : staged) {
      run_shape<T, T>(report, shape);
      if constexpr (sizeof(T) == 2) run_shape<T, float>(report, shape);
    }
    run_shape<T, Accumulate<T>>(report, large);
  });
}

const Section kMirrors(run_mirrors);

}  // namespace
}  // namespace symfast
