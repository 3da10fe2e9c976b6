// SPDX-License-Identifier: Apache-2.0
// What the emulator found, for Python to read.
#include <algorithm>

#include "runtime.h"

namespace emulator {
namespace {

std::vector<std::string> messages;

}  // namespace

void report(const std::string& message) {
  constexpr std::size_t kMost = 50;
  const Quiet quiet;
  ++totals.errors;
  if (messages.size() < kMost) messages.push_back(message);
}

void report_at(Site site, const std::string& message) {
  const Quiet quiet;
  const std::string file = site.file;
  report(file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line) + ": " + message);
}

}  // namespace emulator

extern "C" {

void emulator_configure(int order, unsigned seed, int preempt, int threads, int count_sectors) {
  emulator::config = {
      static_cast<emulator::Order>(order), seed, preempt, threads, count_sectors != 0, 0, 1};
  emulator::totals = {};
  emulator::messages.clear();
}

void emulator_run_last(int64_t blocks) { emulator::config.last_blocks = blocks; }
void emulator_interleave(int resident) { emulator::config.resident = resident; }

// launches, blocks, barriers, warp operations, atomics, errors
void emulator_totals(int64_t* out) { std::memcpy(out, &emulator::totals, sizeof emulator::totals); }

int emulator_message(int number, char* out, int size) {
  if (number >= static_cast<int>(emulator::messages.size())) return 0;
  const std::string& message = emulator::messages[static_cast<std::size_t>(number)];
  const auto length = std::min<std::size_t>(message.size(), static_cast<std::size_t>(size) - 1);
  std::memcpy(out, message.data(), length);
  out[length] = 0;
  return 1;
}
}
