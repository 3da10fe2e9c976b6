// SPDX-License-Identifier: Apache-2.0
// Stacks of fibers, used again and again.
#include <sys/mman.h>

#include "runtime.h"

namespace emulator {

namespace {

std::vector<char*> unused;
constexpr std::size_t kGuard = 4096;  // an overflow must not run into the next stack

char* new_stack() {
  char* const stack = static_cast<char*>(mmap(nullptr, kStackBytes + kGuard, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  mprotect(stack, kGuard, PROT_NONE);
  return stack + kGuard;
}

}  // namespace

void open_stack(Fiber& fiber, void (*entry)()) {
  if (unused.empty()) unused.push_back(new_stack());
  fiber.stack = unused.back();
  unused.pop_back();
  sanitize_new_stack(fiber.stack, kStackBytes);
  auto* top = reinterpret_cast<void**>(fiber.stack + kStackBytes - 64);
#if defined(__x86_64__)
  *--top = nullptr;  // where entry would return to; it also aligns the stack
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
#else
  for (int saved = 0; saved < 22; ++saved) *--top = nullptr;
  top[11] = reinterpret_cast<void*>(entry);
#endif
  fiber.stack_pointer = top;
}

void close_stack(Fiber& fiber) {
  constexpr std::size_t kMost = 2048;  // a process has some 65000 mappings, a stack two of them
  if (unused.size() < kMost) return unused.push_back(fiber.stack);
  munmap(fiber.stack - kGuard, kStackBytes + kGuard);
}

}  // namespace emulator
