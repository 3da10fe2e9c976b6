// SPDX-License-Identifier: Apache-2.0
// Checks every CUDA kernel against float64 on the host and times it, without torch: `make gpu`.
// usage: cuda_driver [folder for <gpu>.json]
#include <cctype>
#include <exception>

#include "cuda/report.h"

namespace symfast {
namespace {

#if defined(SYMFAST_EMULATOR)
constexpr const char* kMissing = nullptr;
std::string gpu_name() { return "emulator"; }
#else
const char* missing_device() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 ? nullptr : "no CUDA device";
}
const char* const kMissing = missing_device();

std::string gpu_name() {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, 0), "no properties of the device");
  return properties.name;
}
#endif

// Bytes read and written by a copy on the device, per second.
double copy_gbps() {
  const DeviceArray<unsigned char> from(kBigBytes), to(kBigBytes);
  const double ms = milliseconds([&] {
#if defined(SYMFAST_EMULATOR)
    copy(to.get(), from.get(), kBigBytes);
#else
    check_cuda(cudaMemcpyAsync(to.get(), from.get(), static_cast<std::size_t>(kBigBytes),
                               cudaMemcpyDeviceToDevice, nullptr),
               "a copy");
#endif
  });
  return 2.0 * static_cast<double>(kBigBytes) / ms * 1e-6;
}

std::string file_name(const std::string& gpu) {
  std::string name;
  for (const char c : gpu) {
    name += std::isalnum(static_cast<unsigned char>(c)) ? static_cast<char>(std::tolower(c)) : '-';
  }
  return name + ".json";
}

int run(const char* folder) {
  const std::string gpu = gpu_name();
  Report report(gpu, copy_gbps());
  for (const Section::Run section : Section::all()) section(report);
  const std::string path = std::string(folder) + "/" + file_name(gpu);
  if (!report.write(path.c_str())) {
    std::fprintf(stderr, "%s cannot be written\n", path.c_str());
    return 2;
  }
  std::printf("%zu calls, %d wrong; %s\n", report.size(), report.failures(), path.c_str());
  return report.failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace symfast

int main(int argc, char** argv) {
  if (symfast::kMissing) {
    std::printf("not run: %s\n", symfast::kMissing);
    return 0;
  }
  try {
    return symfast::run(argc > 1 ? argv[1] : ".");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
