// SPDX-License-Identifier: Apache-2.0
// Threads of a block as fibers: turns, barriers and warp operations.
#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <random>

#include "runtime.h"
#include "switch.h"

namespace emulator {

Index thread_index{}, block_index{}, block_size{}, grid_size{};
Config config;
Totals totals{};

namespace {

constexpr int kWarp = 32;

enum class State { ready, at_barrier, at_warp_operation, done };

struct Thread {
  Fiber fiber;
  State state = State::done;
  Site site{};
  WarpOp op{};
  unsigned mask = 0;
  int argument = 0;
  uint64_t value = 0, result = 0;
  unsigned barriers = 0, warp_syncs = 0;
};

std::vector<Thread> threads;
Fiber scheduler;
int running = -1;
const std::function<void()>* kernel;
std::mt19937 random_numbers;
char barrier_tags[2], end_tag, warp_tags[32][2];  // two tags in turn: one would hide races

void leave(bool forever) {
  Fiber& me = threads[running].fiber;
  sanitize_leave(me, scheduler, forever);
  emulator_switch(&me.stack_pointer, scheduler.stack_pointer);
  sanitize_enter(me);
}

[[noreturn]] void thread_main() {
  sanitize_enter(threads[running].fiber);
  (*kernel)();
  sanitize_release(&end_tag);
  threads[running].state = State::done;
  leave(true);
  std::abort();
}

void resume(int number) {
  running = number;
  thread_index = {static_cast<unsigned>(number)};
  sanitize_leave(scheduler, threads[number].fiber, false);
  emulator_switch(&scheduler.stack_pointer, threads[number].fiber.stack_pointer);
  sanitize_enter(scheduler);
  running = -1;
}

void start(Thread& thread) {
  char* stack = thread.fiber.stack;
  if (!stack) {
    stack = static_cast<char*>(mmap(nullptr, kStackBytes + 4096, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    mprotect(stack, 4096, PROT_NONE);  // an overflow must not run into the next stack
    stack += 4096;
  }
  thread = Thread{};
  thread.fiber.stack = stack;
  thread.state = State::ready;
  sanitize_new_stack(stack, kStackBytes);
  auto* top = reinterpret_cast<void**>(stack + kStackBytes - 64);
#if defined(__x86_64__)
  *--top = nullptr;  // where thread_main would return to; it also aligns the stack
  *--top = reinterpret_cast<void*>(&thread_main);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
#else
  for (int saved = 0; saved < 22; ++saved) *--top = nullptr;
  top[11] = reinterpret_cast<void*>(&thread_main);
#endif
  thread.fiber.stack_pointer = top;
  sanitize_start(thread.fiber);
}

int count(State state) {
  return static_cast<int>(std::count_if(threads.begin(), threads.end(),
                                        [&](const Thread& t) { return t.state == state; }));
}

// All threads that still run wait at a barrier: it must be the same one, and nobody may be missing.
void open_barrier() {
  const Thread* first = nullptr;
  for (const Thread& thread : threads) {
    if (thread.state != State::at_barrier) continue;
    if (!first) first = &thread;
    if (thread.site.line != first->site.line || std::strcmp(thread.site.file, first->site.file)) {
      report_at(first->site, "divergent barrier: other threads wait at line " +
                                 std::to_string(thread.site.line));
      break;
    }
  }
  if (const int gone = count(State::done)) {
    report_at(first->site, "barrier that " + std::to_string(gone) + " threads never reach");
  }
  for (Thread& thread : threads) {
    if (thread.state == State::at_barrier) thread.state = State::ready;
  }
  ++totals.barriers;
}

std::string whereabouts() {
  std::string words = "deadlock:";
  int named = 0;
  for (std::size_t i = 0; i < threads.size() && named < 4; ++i) {
    if (threads[i].state == State::done) continue;
    ++named;
    words += " thread " + std::to_string(i) + " at line " + std::to_string(threads[i].site.line) +
             (threads[i].state == State::at_barrier ? " (barrier)" : " (warp operation)");
  }
  return words;
}

// Runs the block's threads to their ends. False if they are stuck.
bool run_block(std::vector<int>& turns) {
  for (;;) {
    if (config.order == Order::random) std::shuffle(turns.begin(), turns.end(), random_numbers);
    bool moved = false;
    for (const int number : turns) {
      if (threads[number].state != State::ready) continue;
      resume(number);
      moved = true;
    }
    if (moved) continue;
    const int done = count(State::done);
    if (done == static_cast<int>(threads.size())) return true;
    if (done + count(State::at_barrier) < static_cast<int>(threads.size())) {
      report(whereabouts());
      return false;
    }
    open_barrier();
  }
}

std::vector<int> in_order(int64_t n) {
  std::vector<int> order(static_cast<std::size_t>(n));
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<int>(i);
  if (config.order == Order::reverse) std::reverse(order.begin(), order.end());
  if (config.order == Order::random) std::shuffle(order.begin(), order.end(), random_numbers);
  return order;
}

uint64_t result_for(const Thread* warp, int lane) {
  const Thread& me = warp[lane];
  if (me.op == WarpOp::shuffle_xor) return warp[(lane ^ me.argument) % kWarp].value;
  uint64_t votes = 0;
  for (int i = 0; i < kWarp; ++i) votes |= (warp[i].value & 1) << i;
  return votes;
}

}  // namespace

int current_thread() { return running; }

void maybe_preempt() {
  if (config.preempt > 0 && static_cast<int>(random_numbers() % 1000) < config.preempt) {
    leave(false);
  }
}

void barrier(Site site) {
  Thread& me = threads[running];
  me.site = site;
  me.state = State::at_barrier;
  void* tag = &barrier_tags[me.barriers++ & 1];
  sanitize_release(tag);
  leave(false);
  sanitize_acquire(tag);
}

uint64_t warp_operation(WarpOp op, unsigned mask, uint64_t value, int argument, Site site) {
  Thread& me = threads[running];
  Thread* warp = &threads[running / kWarp * kWarp];
  me.site = site;
  me.op = op;
  me.value = value;
  me.argument = argument;
  me.state = State::at_warp_operation;
  if (mask != 0xffffffffu) report_at(site, "only warp operations of all lanes are supported");
  void* tag = &warp_tags[running / kWarp][me.warp_syncs & 1];
  if (op == WarpOp::sync) {  // orders memory; shuffles do not
    ++me.warp_syncs;
    sanitize_release(tag);
  }
  bool complete = true, alone = false;
  for (int i = 0; i < kWarp; ++i) {
    alone |= warp[i].state == State::done;
    complete &= warp[i].state == State::at_warp_operation && warp[i].op == op &&
                warp[i].site.line == site.line;
  }
  if (alone) report_at(site, "warp operation after a lane of the warp ended");
  if (complete) {
    for (int i = 0; i < kWarp; ++i) warp[i].result = result_for(warp, i);
    for (int i = 0; i < kWarp; ++i) warp[i].state = State::ready;
    ++totals.warp_operations;
  } else {
    leave(false);
  }
  if (op == WarpOp::sync) sanitize_acquire(tag);
  return me.result;
}

void run(int64_t blocks, int per_block, int shared_bytes, const std::function<void()>& body) {
  if (config.threads) per_block = config.threads;
  if (per_block <= 0 || per_block > 1024 || per_block % kWarp || blocks <= 0) {
    report("launch of " + std::to_string(blocks) + " blocks of " + std::to_string(per_block));
    return;
  }
  random_numbers.seed(config.seed);
  kernel = &body;
  threads.resize(std::max<std::size_t>(threads.size(), per_block));
  std::vector<Thread> spare(threads.begin() + per_block, threads.end());
  threads.resize(per_block);
  grid_size = {static_cast<unsigned>(blocks)};
  block_size = {static_cast<unsigned>(per_block)};
  ++totals.launches;
  const int64_t wanted = config.last_blocks > 0 ? std::min(config.last_blocks, blocks) : blocks;
  for (const int block : in_order(wanted)) {
    block_index = {static_cast<unsigned>(blocks - wanted + block)};
    ++totals.blocks;
    open_shared(shared_bytes);
    for (Thread& thread : threads) start(thread);
    std::vector<int> turns = in_order(per_block);
    const bool finished = run_block(turns);
    for (Thread& thread : threads) sanitize_end(thread.fiber);
    close_shared();
    if (!finished) break;
  }
  sanitize_acquire(&end_tag);
  finish_requests();
  threads.insert(threads.end(), spare.begin(), spare.end());
}

}  // namespace emulator
