// SPDX-License-Identifier: Apache-2.0
// Blocks of a launch: turns, and the barrier of all of them.
#include <algorithm>
#include <memory>

#include "blocks.h"

namespace emulator {

namespace {

constexpr int kWarp = 32;

using Blocks = std::vector<std::unique_ptr<Block>>;

bool waits(const Block& block) {
  return std::all_of(block.threads.begin(), block.threads.end(),
                     [](const Thread& t) { return t.state == State::at_grid_barrier; });
}

// All blocks that still run wait at the grid's barrier: nobody may be missing.
void open_grid_barrier(const Blocks& blocks, std::size_t of) {
  const Site site = blocks.front()->threads.front().site;
  if (blocks.size() < of) {
    report_at(site,
              "grid barrier that " + std::to_string(of - blocks.size()) + " blocks never reach");
  }
  for (const auto& block : blocks) {
    const Site other = block->threads.front().site;
    if (other.line != site.line) {
      report_at(site,
                "divergent grid barrier: other blocks wait at line " + std::to_string(other.line));
    }
    for (Thread& thread : block->threads) thread.state = State::ready;
  }
}

// One of the blocks that do not wait for others, or -1.
int choose(const Blocks& blocks) {
  std::vector<int> ready;
  for (std::size_t n = 0; n < blocks.size(); ++n) {
    if (!waits(*blocks[n])) ready.push_back(static_cast<int>(n));
  }
  if (ready.empty()) return -1;
  const bool by_chance = config.resident > 1 && ready.size() > 1;
  return ready[by_chance ? random_numbers() % ready.size() : 0];
}

// Blocks of these numbers, `at_once` of them at a time.
void run_blocks(const std::vector<int64_t>& numbers, std::size_t at_once, int threads,
                int shared_bytes) {
  Blocks resident;
  std::size_t next = 0;
  for (bool stuck = false; !stuck && (next < numbers.size() || !resident.empty());) {
    while (next < numbers.size() && resident.size() < at_once) {
      resident.push_back(std::make_unique<Block>());
      begin(*resident.back(), numbers[next++], threads, shared_bytes);
    }
    const int chosen = choose(resident);
    if (chosen < 0) {
      open_grid_barrier(resident, at_once);
      continue;
    }
    use(*resident[static_cast<std::size_t>(chosen)]);
    const Progress progress = run_round();
    stuck = progress == Progress::stuck;
    if (progress != Progress::finished) continue;
    end(*resident[static_cast<std::size_t>(chosen)]);
    resident.erase(resident.begin() + chosen);
  }
  for (const auto& block : resident) end(*block);
}

}  // namespace

int64_t most_together() { return config.together; }

void run(int64_t blocks, int per_block, int shared_bytes, bool together,
         const std::function<void()>& body) {
  if (config.threads) per_block = config.threads;
  if (per_block <= 0 || per_block > 1024 || per_block % kWarp || blocks <= 0) {
    report("launch of " + std::to_string(blocks) + " blocks of " + std::to_string(per_block));
    return;
  }
  random_numbers.seed(config.seed);
  kernel = &body;
  if (together && blocks > config.together) {
    report(std::to_string(blocks) + " blocks do not fit at once");
    return;
  }
  for (auto& tag : grid_tags) tag = new_tag();
  grid_size = {static_cast<unsigned>(blocks)};
  block_size = {static_cast<unsigned>(per_block)};
  ++totals.launches;
  const int64_t wanted = config.last_blocks > 0 ? std::min(config.last_blocks, blocks) : blocks;
  std::vector<int64_t> numbers;
  for (const int number : in_order(wanted)) numbers.push_back(blocks - wanted + number);
  const auto at_once = static_cast<std::size_t>(together ? blocks : config.resident);
  run_blocks(numbers, at_once, per_block, shared_bytes);
  sanitize_acquire(&end_tag);
  finish_requests();
}

}  // namespace emulator
