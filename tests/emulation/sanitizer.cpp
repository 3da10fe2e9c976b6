// SPDX-License-Identifier: Apache-2.0
// Tells ThreadSanitizer or AddressSanitizer about fibers, and TSan what orders memory: barriers and
// __syncwarp do, taking turns does not. Without EMULATOR_TSAN or EMULATOR_ASAN all of it is
// nothing.
#include <sys/mman.h>

#include "runtime.h"

#if defined(EMULATOR_TSAN)
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#elif defined(EMULATOR_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, std::size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*);
void __asan_poison_memory_region(const volatile void*, std::size_t);
void __asan_unpoison_memory_region(const volatile void*, std::size_t);
}
#endif

namespace emulator {

#if defined(EMULATOR_TSAN)

namespace {
void* home;  // the scheduler
}  // namespace

void sanitize_start(Fiber& fiber) { fiber.sanitizer = __tsan_create_fiber(0); }
void sanitize_end(Fiber& fiber) {  // kept a while: TSan takes a reused fiber for the same thread
  static std::vector<void*> ended;
  constexpr std::size_t kMost = 4000;
  ended.push_back(fiber.sanitizer);
  if (ended.size() < kMost) return;
  for (void* one : ended) __tsan_destroy_fiber(one);
  ended.clear();
}
void sanitize_leave(Fiber& fiber, const Fiber& next, bool) {
  constexpr unsigned kOrdersNothing = 1;
  if (!fiber.stack) home = fiber.sanitizer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(next.sanitizer, kOrdersNothing);
}
void sanitize_enter(Fiber&) {}
void sanitize_release(void* tag) { __tsan_release(tag); }
void sanitize_acquire(void* tag) { __tsan_acquire(tag); }
void sanitize_pass_on(void* from, void* to) {  // by a fiber that knows nothing else
  void* const me = __tsan_get_current_fiber();
  constexpr unsigned kOrdersNothing = 1;
  __tsan_switch_to_fiber(home, kOrdersNothing);  // what creates a fiber comes before it
  Fiber carrier;
  sanitize_start(carrier);
  __tsan_switch_to_fiber(carrier.sanitizer, kOrdersNothing);
  __tsan_acquire(from);
  __tsan_release(to);
  __tsan_switch_to_fiber(me, kOrdersNothing);
  sanitize_end(carrier);
}
void sanitize_guard(void*, std::size_t, bool) {}
Quiet::Quiet() {
  AnnotateIgnoreReadsBegin("", 0);
  AnnotateIgnoreWritesBegin("", 0);
}
Quiet::~Quiet() {
  AnnotateIgnoreReadsEnd("", 0);
  AnnotateIgnoreWritesEnd("", 0);
}
void sanitize_new_stack(char* stack, std::size_t bytes) {  // forgets what earlier fibers did on it
  mmap(stack, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

#elif defined(EMULATOR_ASAN)

Quiet::Quiet() {}
Quiet::~Quiet() {}

namespace {
const void* home_stack;
std::size_t home_bytes;
}  // namespace

void sanitize_start(Fiber&) {}
void sanitize_end(Fiber&) {}
void sanitize_leave(Fiber& fiber, const Fiber& next, bool forever) {
  const bool to_fiber = next.stack != nullptr;
  __sanitizer_start_switch_fiber(forever ? nullptr : &fiber.sanitizer,
                                 to_fiber ? next.stack : home_stack,
                                 to_fiber ? kStackBytes : home_bytes);
}
void sanitize_enter(Fiber& fiber) {
  const bool home = fiber.stack == nullptr;
  __sanitizer_finish_switch_fiber(fiber.sanitizer, home ? nullptr : &home_stack,
                                  home ? nullptr : &home_bytes);
}
void sanitize_release(void*) {}
void sanitize_acquire(void*) {}
void sanitize_pass_on(void*, void*) {}
void sanitize_guard(void* p, std::size_t bytes, bool on) {
  on ? __asan_poison_memory_region(p, bytes) : __asan_unpoison_memory_region(p, bytes);
}
void sanitize_new_stack(char* stack, std::size_t bytes) {
  __asan_unpoison_memory_region(stack, bytes);
}

#else

Quiet::Quiet() {}
Quiet::~Quiet() {}
void sanitize_start(Fiber&) {}
void sanitize_end(Fiber&) {}
void sanitize_leave(Fiber&, const Fiber&, bool) {}
void sanitize_enter(Fiber&) {}
void sanitize_release(void*) {}
void sanitize_acquire(void*) {}
void sanitize_pass_on(void*, void*) {}
void sanitize_guard(void*, std::size_t, bool) {}
void sanitize_new_stack(char*, std::size_t) {}

#endif

}  // namespace emulator
