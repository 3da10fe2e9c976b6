// SPDX-License-Identifier: Apache-2.0
// Signals between blocks and fences. A signal waits with its block until the thread that stored it
// runs a fence: the block itself sees it, others do not. That is the worst a GPU may do to a
// signal. What fences order beside is for ThreadSanitizer to judge: a thread that fences, then
// signals, hands over what it knew at the fence; one that sees a signal, then fences, has got it.
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "runtime.h"

namespace emulator {

namespace {

Signals* here = nullptr;

char* tag_of(std::vector<char*>& tags) {
  char*& tag = tags[static_cast<std::size_t>(current_thread())];
  if (!tag) tag = new_tag();
  return tag;
}

void send(const Signal& signal) { __atomic_store_n(signal.place, signal.value, __ATOMIC_RELAXED); }

}  // namespace

char* new_tag() {
  constexpr std::size_t kArena = std::size_t{1} << 30, kStep = 8;
  static char *next = nullptr, *end = nullptr;
  if (next == end) {  // pages that nobody touches cost nothing
    next = static_cast<char*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    end = next + kArena;
  }
  return std::exchange(next, next + kStep);
}

void use_signals(Signals* signals) { here = signals; }

void open_signals(int threads) {
  here->waiting.clear();
  here->sent.assign(static_cast<std::size_t>(threads), nullptr);
  here->received = here->sent;
}

void close_signals() {
  for (const Signal& signal : here->waiting) send(signal);
  here->waiting.clear();
}

void fence() {
  sanitize_release(tag_of(here->sent));
  sanitize_acquire(tag_of(here->received));
  const Quiet quiet;
  auto& waiting = here->waiting;
  const auto mine = [](const Signal& signal) { return signal.thread == current_thread(); };
  for (const Signal& signal : waiting) {
    if (mine(signal)) send(signal);
  }
  waiting.erase(std::remove_if(waiting.begin(), waiting.end(), mine), waiting.end());
}

void store_signal(int64_t* p, int64_t value) {
  if (!access(p, sizeof *p, true)) return;
  const Quiet quiet;
  sanitize_pass_on(tag_of(here->sent), p);
  here->waiting.push_back({p, value, current_thread()});
}

int64_t load_signal(const int64_t* p) {
  if (!access(p, sizeof *p, false)) return 0;
  const Quiet quiet;
  sanitize_pass_on(const_cast<int64_t*>(p), tag_of(here->received));
  const auto& waiting = here->waiting;
  const auto found = std::find_if(waiting.rbegin(), waiting.rend(),
                                  [&](const Signal& signal) { return signal.place == p; });
  return found != waiting.rend() ? found->value : __atomic_load_n(p, __ATOMIC_RELAXED);
}

int64_t fetch_add(int64_t* p, int64_t n) {
  if (!access(p, sizeof *p, true)) return 0;
  ++totals.atomics;
  const Quiet quiet;
  sanitize_pass_on(p, tag_of(here->received));
  sanitize_pass_on(tag_of(here->sent), p);
  return __atomic_fetch_add(p, n, __ATOMIC_RELAXED);
}

void compare_and_swap(int64_t* p, int64_t from, int64_t to) {
  if (!access(p, sizeof *p, true)) return;
  ++totals.atomics;
  __atomic_compare_exchange_n(p, &from, to, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

}  // namespace emulator
