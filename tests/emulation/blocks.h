// SPDX-License-Identifier: Apache-2.0
// What the emulator knows of the blocks of a launch and their threads: emulator.cpp gives threads
// their turns, grid.cpp blocks theirs.
#pragma once
#include <random>

#include "runtime.h"

namespace emulator {

// `pausing`: ready, and nothing that it waits for has happened the last time it looked.
enum class State { ready, pausing, at_barrier, at_warp_operation, done };

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

// Tags are of this block alone, two in turn: fewer would hide races.
struct Block {
  std::vector<Thread> threads;
  std::vector<int> turns;
  Index index{};
  SharedMemory shared;
  Signals signals;
  char *barrier_tags[2], *warp_tags[32][2];
};

extern const std::function<void()>* kernel;
extern std::mt19937 random_numbers;
extern char end_tag;

// 0 .. n - 1, as threads and blocks take turns.
std::vector<int> in_order(int64_t n);

// The block that the functions below, and its threads, are about.
void use(Block& block);
void begin(Block& block, int64_t number, int threads, int shared_bytes);
void end(Block& block);

// `waiting`: for other blocks.
enum class Progress { some, waiting, finished, stuck };
Progress run_round();
// Where the block's threads wait for what does not come.
std::string whereabouts();

}  // namespace emulator
