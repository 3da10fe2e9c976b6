// SPDX-License-Identifier: Apache-2.0
// What the emulator's own files share. They are compiled without sanitizers; only the file with the
// kernels is instrumented.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulator.h"

namespace emulator {

constexpr int kWarp = 32;

enum class Order : int { forward, reverse, random };

// How threads and blocks take turns. `preempt` of 1000 accesses to global memory hand over to
// another thread; `threads`, if not 0, replaces the block size of every launch; `last_blocks`, if
// not 0, runs only so many blocks, those of the highest numbers, not for kernels whose blocks wait
// for others; `resident` blocks take turns, by chance if there are several.
struct Config {
  Order order = Order::forward;
  unsigned seed = 1;
  int preempt = 0;
  int threads = 0;
  bool count_sectors = false;
  int64_t last_blocks = 0;
  int resident = 1;
};
extern Config config;

struct Totals {
  int64_t launches, blocks, barriers, warp_operations, atomics, errors;
};
extern Totals totals;

void report(const std::string& message);
void report_at(Site site, const std::string& message);

// The running thread: number in its block, or -1 outside a launch.
int current_thread();
// Gives the other threads of the block a turn.
void maybe_preempt();

// memory.cpp: shared memory of the block that runs, and whether it starts or ends; requests of the
// launch that ends.
struct SharedArray {
  const void* key;
  unsigned char* memory;
  std::size_t bytes;
};
struct SharedMemory {
  std::vector<SharedArray> arrays;
  unsigned char* dynamic = nullptr;
};
void use_shared(SharedMemory* memory);
void open_shared(int dynamic_bytes);
void close_shared();
void finish_requests();

// signals.cpp: signals of a block that others do not see yet, and of its threads, what their fences
// order: places that stand for it.
struct Signal {
  int64_t* place;
  int64_t value;
  int thread;
};
struct Signals {
  std::vector<Signal> waiting;
  std::vector<char*> sent, received;
};
void use_signals(Signals* signals);
void open_signals(int threads);
void close_signals();
// A place that no one has used for ordering before.
char* new_tag();

// sanitizer.cpp
struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* sanitizer = nullptr;  // TSan's fiber, ASan's fake stack
};
constexpr std::size_t kStackBytes = 256 << 10;
// stacks.cpp: a stack on which switching to the fiber calls `entry`, which never returns.
void open_stack(Fiber& fiber, void (*entry)());
void close_stack(Fiber& fiber);
// While one lives, what the run time itself does (allocation above all) is no access of the
// thread's.
struct Quiet {
  Quiet();
  ~Quiet();
};
void sanitize_start(Fiber& fiber);
void sanitize_end(Fiber& fiber);
void sanitize_leave(Fiber& fiber, const Fiber& next, bool forever);
void sanitize_enter(Fiber& fiber);
void sanitize_release(void* tag);
void sanitize_acquire(void* tag);
// Whoever acquires `to` acquires what has been released to `from`; the running thread does not.
void sanitize_pass_on(void* from, void* to);
void sanitize_guard(void* p, std::size_t bytes, bool on);
void sanitize_new_stack(char* stack, std::size_t bytes);

}  // namespace emulator
