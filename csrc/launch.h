// SPDX-License-Identifier: Apache-2.0
// The one way kernels are launched. Free of torch: a driver without torch uses the same functions.
#pragma once
#include <cstdint>
#include <string>

#include "device.h"

#if !defined(SYMFAST_EMULATOR)
#include <cuda_runtime.h>

#include <stdexcept>
#endif

namespace symfast {

// What a launch needs besides its arguments. Blocks are counted in one dimension.
struct Launch {
  int64_t blocks;
  int threads;
  int shared_bytes;
  void* stream;  // a cudaStream_t
};

#if defined(SYMFAST_EMULATOR)
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& shape, const Arguments&... arguments) {
  if (shape.blocks == 0) return;
  emulator::run(shape.blocks, shape.threads, shape.shared_bytes, [&] { kernel(arguments...); });
}
#else
inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("symfast: ") + what + ": " + cudaGetErrorString(error));
}

// The kernel on the stream; nothing at all for a grid of no blocks, which CUDA refuses.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& shape, const Arguments&... arguments) {
  if (shape.blocks == 0) return;
  if (shape.blocks > INT32_MAX) throw std::runtime_error("symfast: more than 2^31 - 1 blocks");
  constexpr int kAlwaysAllowed = 48 * 1024;
  if (shape.shared_bytes > kAlwaysAllowed) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    shape.shared_bytes),
               "not that much shared memory");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
  config.stream = static_cast<cudaStream_t>(shape.stream);
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), "a kernel did not start");
}

// Dynamic shared memory one block may have on the current device, asked for once per device.
inline int most_shared_bytes() {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "no current device");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "a device attribute cannot be read");
  return bytes;
}
#endif

}  // namespace symfast
