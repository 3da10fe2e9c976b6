// SPDX-License-Identifier: Apache-2.0
// What the driver found: one line per kernel on the screen, and all of them in a file.
#pragma once
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "device_memory.h"

namespace symfast {

template <typename T>
constexpr const char* kTypeName = "float64";
template <>
inline constexpr const char* kTypeName<float> = "float32";
template <>
inline constexpr const char* kTypeName<BFloat16> = "bfloat16";
template <>
inline constexpr const char* kTypeName<Float16> = "float16";

// Largest allowed error in units of 1 + |x|: sums of some thousand terms, then one rounding.
template <typename T>
constexpr double kTolerance = sizeof(T) == 8   ? 1e-13
                              : sizeof(T) == 4 ? 1e-5
                                               : 0;
template <>
inline constexpr double kTolerance<BFloat16> = 0.51 / 128;
template <>
inline constexpr double kTolerance<Float16> = 0.51 / 1024;

// Largest |got - wanted| / (1 + |wanted|); infinite where a number is missing.
inline double error_of(const std::vector<double>& got, const std::vector<double>& wanted) {
  double worst = got.size() == wanted.size() ? 0 : INFINITY;
  for (std::size_t n = 0; n < wanted.size() && n < got.size(); ++n) {
    const double error = std::abs(got[n] - wanted[n]) / (1 + std::abs(wanted[n]));
    if (!(error <= worst)) worst = error == error ? error : INFINITY;
  }
  return worst;
}

struct Finding {
  std::string kernel, dtype;
  double error, tolerance;
  double ms, bytes;  // of a timed call; 0 bytes: work on the chip, no bandwidth to compare with
};

class Report {
 public:
  Report(std::string gpu, double copy_gbps) : gpu_(std::move(gpu)), copy_gbps_(copy_gbps) {
    std::printf("%s: a device copy moves %.0f GB/s\n", gpu_.c_str(), copy_gbps_);
    std::printf("%-36s %-9s %10s %10s %8s %8s\n", "kernel", "dtype", "error", "ms", "GB/s",
                "of copy");
  }

  void add(const Finding& line) {
    const bool right = line.error <= line.tolerance;
    failures_ += right ? 0 : 1;
    std::printf("%-36s %-9s %10.2e %10.4f", line.kernel.c_str(), line.dtype.c_str(), line.error,
                line.ms);
    if (line.bytes > 0) std::printf(" %8.0f %8.2f", gbps(line), gbps(line) / copy_gbps_);
    std::printf("%s\n", right ? "" : "  WRONG");
    lines_.push_back(line);
  }

  int failures() const { return failures_; }
  std::size_t size() const { return lines_.size(); }

  bool write(const char* path) const {
    std::FILE* file = std::fopen(path, "w");
    if (!file) return false;
    std::fprintf(file, "{\"gpu\": \"%s\", \"copy_gbps\": %.1f, \"kernels\": [", gpu_.c_str(),
                 copy_gbps_);
    for (std::size_t n = 0; n < lines_.size(); ++n) write_line(file, lines_[n], n == 0);
    std::fprintf(file, "\n]}\n");
    return std::fclose(file) == 0;
  }

 private:
  static double gbps(const Finding& line) { return line.bytes / line.ms * 1e-6; }

  void write_line(std::FILE* file, const Finding& line, bool first) const {
    std::fprintf(file, "%s\n  {\"kernel\": \"%s\", \"dtype\": \"%s\", \"right\": %s, ",
                 first ? "" : ",", line.kernel.c_str(), line.dtype.c_str(),
                 line.error <= line.tolerance ? "true" : "false");
    std::fprintf(file, "\"error\": %.3e, \"tolerance\": %.3e, \"ms\": %.5f",
                 std::isfinite(line.error) ? line.error : 1e300, line.tolerance, line.ms);
    if (line.bytes > 0) {
      std::fprintf(file, ", \"bytes\": %.0f, \"gbps\": %.1f, \"of_copy\": %.4f", line.bytes,
                   gbps(line), gbps(line) / copy_gbps_);
    }
    std::fprintf(file, "}");
  }

  std::string gpu_;
  double copy_gbps_;
  int failures_ = 0;
  std::vector<Finding> lines_;
};

// Checks and times the kernels of one file for all element types. A file has one of these as a
// constant of its own and is thereby part of the driver.
class Section {
 public:
  using Run = void (*)(Report&);
  explicit Section(Run run) { all().push_back(run); }
  static std::vector<Run>& all() {
    static std::vector<Run> sections;
    return sections;
  }
};

template <typename Run>
void for_types(const Run& run) {
  run(double{});
  run(float{});
#if !defined(SYMFAST_EMULATOR)
  run(BFloat16{});
  run(Float16{});
#endif
}

constexpr const char* kVerbNames[] = {"reflect", "project",      "shrink",
                                      "prox",    "coefficients", "norms"};

// Calls run with every verb as a constant, up to `last`.
template <int last, int verb = 0, typename Run>
void for_verbs(const Run& run) {
  run(std::integral_constant<Verb, static_cast<Verb>(verb)>{});
  if constexpr (verb < last) for_verbs<last, verb + 1>(run);
}

}  // namespace symfast
