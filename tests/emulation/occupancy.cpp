// SPDX-License-Identifier: Apache-2.0
// Resident blocks per SM by the toolkit's own host-side calculator. Reads lines
//   architecture registers static_bytes dynamic_bytes threads
// and writes one number per line.
#include <cuda_occupancy.h>

#include <cstdio>

namespace {

// Limits of one SM; NVIDIA CUDA C++ Programming Guide, compute capabilities.
cudaOccDeviceProp device(int architecture) {
  cudaOccDeviceProp d{};
  d.computeMajor = architecture / 10;
  d.computeMinor = architecture % 10;
  d.maxThreadsPerBlock = 1024;
  d.maxThreadsPerMultiprocessor = architecture == 75 ? 1024 : 2048;
  d.regsPerBlock = d.regsPerMultiprocessor = 65536;
  d.warpSize = 32;
  d.sharedMemPerBlock = 48 * 1024;
  d.sharedMemPerMultiprocessor = (architecture == 75 ? 64 : architecture == 80 ? 164 : 228) * 1024;
  d.reservedSharedMemPerBlock = architecture >= 80 ? 1024 : 0;
  d.sharedMemPerBlockOptin = d.sharedMemPerMultiprocessor - d.reservedSharedMemPerBlock;
  d.numSms = 1;
  return d;
}

}  // namespace

int main() {
  int architecture, registers, fixed, dynamic, threads;
  while (std::scanf("%d %d %d %d %d", &architecture, &registers, &fixed, &dynamic, &threads) == 5) {
    const cudaOccDeviceProp properties = device(architecture);
    cudaOccFuncAttributes kernel{};
    kernel.maxThreadsPerBlock = threads;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = static_cast<std::size_t>(fixed);
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = static_cast<std::size_t>(dynamic);
    const cudaOccDeviceState state{};
    cudaOccResult result{};
    const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(
        &result, &properties, &kernel, &state, threads, static_cast<std::size_t>(dynamic));
    std::printf("%d\n", error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : -1);
  }
  return 0;
}
