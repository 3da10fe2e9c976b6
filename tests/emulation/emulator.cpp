// SPDX-License-Identifier: Apache-2.0
// Threads of a block as fibers: turns, barriers and warp operations.
#include "emulator.h"

#include <algorithm>
#include <cstdlib>

#include "blocks.h"
#include "switch.h"

namespace emulator {

Index thread_index{}, block_index{}, block_size{}, grid_size{};
Config config;
Totals totals{};
const std::function<void()>* kernel;
std::mt19937 random_numbers;
char end_tag;

namespace {

Block* here = nullptr;
Fiber scheduler;
int running = -1;

void leave(bool forever) {
  Fiber& me = here->threads[running].fiber;
  sanitize_leave(me, scheduler, forever);
  emulator_switch(&me.stack_pointer, scheduler.stack_pointer);
  sanitize_enter(me);
}

[[noreturn]] void thread_main() {
  sanitize_enter(here->threads[running].fiber);
  (*kernel)();
  sanitize_release(&end_tag);
  here->threads[running].state = State::done;
  leave(true);
  std::abort();
}

void resume(int number) {
  Fiber& fiber = here->threads[number].fiber;
  running = number;
  thread_index = {static_cast<unsigned>(number)};
  sanitize_leave(scheduler, fiber, false);
  emulator_switch(&scheduler.stack_pointer, fiber.stack_pointer);
  sanitize_enter(scheduler);
  running = -1;
}

void start(Thread& thread) {
  open_stack(thread.fiber, &thread_main);
  thread.state = State::ready;
  sanitize_start(thread.fiber);
}

int count(State state) {
  return static_cast<int>(std::count_if(here->threads.begin(), here->threads.end(),
                                        [&](const Thread& t) { return t.state == state; }));
}

// All threads that still run wait at a barrier: it must be the same one, and nobody may be missing.
void open_barrier() {
  const Thread* first = nullptr;
  for (const Thread& thread : here->threads) {
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
  for (Thread& thread : here->threads) {
    if (thread.state == State::at_barrier) thread.state = State::ready;
  }
  ++totals.barriers;
}

}  // namespace

std::string whereabouts() {
  const std::vector<Thread>& threads = here->threads;
  std::string words = "deadlock:";
  int named = 0;
  for (std::size_t i = 0; i < threads.size() && named < 4; ++i) {
    if (threads[i].state == State::done) continue;
    ++named;
    words += " thread " + std::to_string(i) + " at line " + std::to_string(threads[i].site.line) +
             (threads[i].state == State::at_barrier ? " (barrier)"
              : threads[i].state == State::pausing  ? " (waits for another block)"
                                                    : " (warp operation)");
  }
  return words;
}

// A turn for every thread of the block, or the barrier that they wait at.
Progress run_round() {
  if (config.order == Order::random || config.resident > 1) {
    std::shuffle(here->turns.begin(), here->turns.end(), random_numbers);
  }
  bool moved = false;
  for (const int number : here->turns) {
    State& state = here->threads[number].state;
    if (state != State::ready && state != State::pausing) continue;
    resume(number);
    moved |= state != State::pausing;
  }
  if (moved) return Progress::some;
  if (count(State::pausing)) return Progress::waiting;
  const int done = count(State::done), all = static_cast<int>(here->threads.size());
  if (done == all) return Progress::finished;
  if (done + count(State::at_barrier) < all) {
    report(whereabouts());
    return Progress::stuck;
  }
  open_barrier();
  return Progress::some;
}

std::vector<int> in_order(int64_t n) {
  std::vector<int> order(static_cast<std::size_t>(n));
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<int>(i);
  if (config.order == Order::reverse) std::reverse(order.begin(), order.end());
  if (config.order == Order::random) std::shuffle(order.begin(), order.end(), random_numbers);
  return order;
}

namespace {

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
  Thread& me = here->threads[running];
  me.site = site;
  me.state = State::at_barrier;
  void* tag = here->barrier_tags[me.barriers++ & 1];
  sanitize_release(tag);
  leave(false);
  sanitize_acquire(tag);
}

void wait(Site site) {
  Thread& me = here->threads[running];
  me.site = site;
  me.state = State::pausing;
  leave(false);
  me.state = State::ready;
}

uint64_t warp_operation(WarpOp op, unsigned mask, uint64_t value, int argument, Site site) {
  Thread& me = here->threads[running];
  Thread* warp = &here->threads[running / kWarp * kWarp];
  me.site = site;
  me.op = op;
  me.value = value;
  me.argument = argument;
  me.state = State::at_warp_operation;
  if (mask != 0xffffffffu) report_at(site, "only warp operations of all lanes are supported");
  void* tag = here->warp_tags[running / kWarp][me.warp_syncs & 1];
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

void use(Block& block) {
  here = &block;
  block_index = block.index;
  use_shared(&block.shared);
  use_signals(&block.signals);
}

void begin(Block& block, int64_t number, int threads, int shared_bytes) {
  block.index = {static_cast<unsigned>(number)};
  use(block);
  ++totals.blocks;
  for (auto& tag : block.barrier_tags) tag = new_tag();
  for (auto& warp : block.warp_tags) {
    for (auto& tag : warp) tag = new_tag();
  }
  open_shared(shared_bytes);
  open_signals(threads);
  block.threads.resize(static_cast<std::size_t>(threads));
  for (Thread& thread : block.threads) start(thread);
  block.turns = in_order(threads);
}

void end(Block& block) {
  use(block);
  for (Thread& thread : block.threads) {
    sanitize_end(thread.fiber);
    close_stack(thread.fiber);
  }
  close_signals();
  close_shared();
}

}  // namespace emulator
