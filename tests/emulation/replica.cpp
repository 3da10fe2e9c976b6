// SPDX-License-Identifier: Apache-2.0
// The real replica sweep kernels and their launcher, compiled for the emulator.
#include "replica_launch.h"

extern "C" void emulated_replica_sweep(const symfast::ReplicaArguments<EMULATED_TYPE>* arguments,
                                       int64_t most_shared) {
  symfast::launch_replicas(*arguments, nullptr, most_shared);
}
