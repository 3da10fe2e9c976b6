// SPDX-License-Identifier: Apache-2.0
// Device memory and the clock of the driver. With SYMFAST_EMULATOR the device is this processor, so
// that the driver's own tables and formulas are tested where there is no GPU.
#pragma once
#include <chrono>
#include <cstring>
#include <vector>

#include "launch.h"

#if defined(SYMFAST_EMULATOR)
extern "C" void emulator_allow(const void* p, int64_t bytes, int number);
#endif

namespace symfast {

#if defined(SYMFAST_EMULATOR)
constexpr int64_t kBigBytes = 1 << 16;  // of a tensor that is timed
constexpr int kWarmUp = 0, kRuns = 1;

inline void* allocate(int64_t bytes) {
  void* p = ::operator new(static_cast<std::size_t>(bytes), std::align_val_t{256});
  emulator_allow(p, bytes, 0);
  return p;
}
inline void release(void*) {}  // the emulator knows an address once and for all
inline void copy(void* to, const void* from, int64_t bytes) {
  memcpy(to, from, static_cast<std::size_t>(bytes));
}
inline void fill(void* p, int byte, int64_t bytes) {
  memset(p, byte, static_cast<std::size_t>(bytes));
}
inline void wait() {}
inline int most_shared_bytes() { return 99 * 1024; }

template <typename Run>
double milliseconds(const Run& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}
#else
constexpr int64_t kBigBytes = 256 << 20;  // several times the largest L2 cache
constexpr int kWarmUp = 3, kRuns = 20;

inline void* allocate(int64_t bytes) {
  void* p = nullptr;
  check_cuda(cudaMalloc(&p, static_cast<std::size_t>(bytes)), "no memory");
  return p;
}
inline void release(void* p) { cudaFree(p); }
inline void copy(void* to, const void* from, int64_t bytes) {
  check_cuda(cudaMemcpy(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault), "a copy");
}
inline void fill(void* p, int byte, int64_t bytes) {
  check_cuda(cudaMemset(p, byte, static_cast<std::size_t>(bytes)), "a fill");
}
inline void wait() { check_cuda(cudaDeviceSynchronize(), "a kernel failed"); }

// Of one run, between two events: the mean of kRuns in a row.
template <typename Run>
double milliseconds(const Run& run) {
  cudaEvent_t begin, end;
  check_cuda(cudaEventCreate(&begin), "no event");
  check_cuda(cudaEventCreate(&end), "no event");
  for (int n = 0; n < kWarmUp; ++n) run();
  check_cuda(cudaEventRecord(begin), "no event");
  for (int n = 0; n < kRuns; ++n) run();
  check_cuda(cudaEventRecord(end), "no event");
  check_cuda(cudaEventSynchronize(end), "a kernel failed");
  float total = 0;
  check_cuda(cudaEventElapsedTime(&total, begin, end), "no time");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return static_cast<double>(total) / kRuns;
}
#endif

// An array on the device. Starts with bytes that are NaN as numbers, so what nobody wrote shows.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count, int byte = 0xff)
      : count_(count), data_(static_cast<T*>(allocate(bytes()))) {
    fill(data_, byte, bytes());
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    copy(data_, values.data(), count_ * static_cast<int64_t>(sizeof(T)));
  }
  DeviceArray(DeviceArray&& other) noexcept : count_(other.count_), data_(other.data_) {
    other.data_ = nullptr;
  }
  DeviceArray& operator=(DeviceArray&&) = delete;
  ~DeviceArray() {
    if (data_) release(data_);
  }

  T* get() const { return data_; }
  std::vector<T> read() const {
    wait();
    std::vector<T> values(static_cast<std::size_t>(count_));
    copy(values.data(), data_, count_ * static_cast<int64_t>(sizeof(T)));
    return values;
  }

 private:
  int64_t bytes() const { return (count_ > 0 ? count_ : 1) * static_cast<int64_t>(sizeof(T)); }
  int64_t count_;
  T* data_;
};

// ---- numbers on the host ----

inline double number(double x) { return x; }
inline double number(float x) { return static_cast<double>(x); }
inline double number(BFloat16 x) { return static_cast<double>(__bfloat162float(x)); }
inline double number(Float16 x) { return static_cast<double>(__half2float(x)); }

template <typename T>
T rounded(double x) {
  if constexpr (sizeof(T) == 8) {
    return x;
  } else if constexpr (sizeof(T) == 4) {
    return static_cast<float>(x);
  } else if constexpr (__is_same(T, BFloat16)) {
    return __float2bfloat16_rn(static_cast<float>(x));
  } else {
    return __float2half_rn(static_cast<float>(x));
  }
}

// Numbers in [-1, 1), the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 1) {}
  double next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) / 4503599627370496.0 - 1;
  }
  std::vector<double> many(int64_t count) {
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& x : values) x = next();
    return values;
  }

 private:
  uint64_t state_;
};

template <typename T>
std::vector<T> narrowed(const std::vector<double>& values) {
  std::vector<T> result;
  result.reserve(values.size());
  for (const double x : values) result.push_back(rounded<T>(x));
  return result;
}

template <typename T>
std::vector<double> numbers(const std::vector<T>& values) {
  std::vector<double> result;
  result.reserve(values.size());
  for (const T x : values) result.push_back(number(x));
  return result;
}

}  // namespace symfast
