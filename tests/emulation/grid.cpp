// SPDX-License-Identifier: Apache-2.0
// Blocks of a launch and their turns.
#include <algorithm>
#include <memory>

#include "blocks.h"

namespace emulator {

namespace {

// Blocks of these numbers, as many at once as config says.
void run_blocks(const std::vector<int64_t>& numbers, int threads, int shared_bytes) {
  std::vector<std::unique_ptr<Block>> resident;
  const auto at_once = static_cast<std::size_t>(config.resident);
  std::size_t next = 0, waiting = 0;  // the first `waiting` of those that are resident
  while (next < numbers.size() || !resident.empty()) {
    while (next < numbers.size() && resident.size() < at_once) {
      resident.push_back(std::make_unique<Block>());
      begin(*resident.back(), numbers[next++], threads, shared_bytes);
    }
    const std::size_t ready = resident.size() - waiting;
    const std::size_t chosen = waiting + (ready > 1 ? random_numbers() % ready : 0);
    use(*resident[chosen]);
    const Progress progress = run_round();
    if (progress == Progress::waiting) {
      std::swap(resident[chosen], resident[waiting++]);
      if (waiting == resident.size()) report(whereabouts());
    } else {  // who waited may look again
      waiting = 0;
    }
    if (progress == Progress::stuck || waiting == resident.size()) break;
    if (progress == Progress::finished) {
      end(*resident[chosen]);
      resident.erase(resident.begin() + static_cast<std::ptrdiff_t>(chosen));
    }
  }
  for (const auto& block : resident) end(*block);
}

}  // namespace

void run(int64_t blocks, int per_block, int shared_bytes, const std::function<void()>& body) {
  if (config.threads) per_block = config.threads;
  if (per_block <= 0 || per_block > 1024 || per_block % kWarp || blocks <= 0) {
    report("launch of " + std::to_string(blocks) + " blocks of " + std::to_string(per_block));
    return;
  }
  random_numbers.seed(config.seed);
  kernel = &body;
  grid_size = {static_cast<unsigned>(blocks)};
  block_size = {static_cast<unsigned>(per_block)};
  ++totals.launches;
  const int64_t wanted = config.last_blocks > 0 ? std::min(config.last_blocks, blocks) : blocks;
  std::vector<int64_t> numbers;
  for (const int number : in_order(wanted)) numbers.push_back(blocks - wanted + number);
  run_blocks(numbers, per_block, shared_bytes);
  sanitize_acquire(&end_tag);
  finish_requests();
}

}  // namespace emulator
