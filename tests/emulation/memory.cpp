// SPDX-License-Identifier: Apache-2.0
// Global memory: bounds, alignment, bytes and 32-byte sectors per allocation. Shared memory: fresh
// per block, filled with NaN, with a guard behind it.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <unordered_map>

#include "emulator.h"
#include "runtime.h"

namespace emulator {

namespace {

constexpr int kSector = 32, kGuard = 64;
constexpr unsigned char kPoison = 0xff, kGuardByte = 0xa5;

struct Traffic {
  int64_t bytes = 0, distinct = 0, requests = 0, sectors = 0, useful = 0, widest = 0;
  std::vector<bool> touched;
};

struct Allocation {
  uintptr_t begin, end;
  int number;
  Traffic traffic[2];                   // read, written
  bool changed = false, table = false;  // by this launch; read as memory that it does not change
};

std::map<uintptr_t, Allocation> allocations;

// What the lanes of a warp ask for by one instruction goes to memory together. An instruction is
// its place in the code and how many times the thread has been there.
struct Request {
  const void* place;
  int warp, turn;
  bool operator==(const Request&) const = default;
};
struct RequestHash {
  std::size_t operator()(const Request& r) const {
    return reinterpret_cast<std::size_t>(r.place) * 31 +
           static_cast<std::size_t>(r.warp) * 1000003 +
           static_cast<std::size_t>(r.turn) * 0x9e3779b97f4a7c15ull;
  }
};
struct Pieces {
  Traffic* traffic;
  std::vector<std::pair<uintptr_t, std::size_t>> pieces;
};
std::unordered_map<Request, Pieces, RequestHash> requests;
std::vector<std::unordered_map<const void*, int>> turns;

SharedMemory* shared = nullptr;  // of the block that runs
std::vector<void*> retired;  // freed after the launch: a reused address would order blocks for TSan

std::string hex(const void* p) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", p);
  return text;
}

unsigned char* new_shared(const void* key, std::size_t bytes) {
  const Quiet quiet;
  // exactly the bytes, so that AddressSanitizer sees the first one behind; 16-byte boundaries
  auto* memory =
      static_cast<unsigned char*>(std::aligned_alloc(128, (bytes + kGuard + 127) / 128 * 128));
  std::memset(memory, kPoison, bytes);
  std::memset(memory + bytes, kGuardByte, kGuard);
  sanitize_guard(memory + bytes, kGuard, true);
  shared->arrays.push_back({key, memory, bytes});
  return memory;
}

// How many times this thread has been at a place in the code before.
int take_turn(const void* place) {
  const Quiet quiet;
  const int thread = current_thread();
  turns.resize(std::max<std::size_t>(turns.size(), thread + 1));
  return turns[thread][place]++;
}

void count_access(Traffic& traffic, const Allocation& a, const void* p, std::size_t bytes,
                  const void* place) {
  traffic.bytes += static_cast<int64_t>(bytes);
  traffic.widest = std::max<int64_t>(traffic.widest, static_cast<int64_t>(bytes));
  if (!config.count_sectors) return;
  if (traffic.touched.empty()) traffic.touched.resize(a.end - a.begin);
  const uintptr_t first = reinterpret_cast<uintptr_t>(p) - a.begin;
  for (uintptr_t i = first; i < first + bytes; ++i) {
    traffic.distinct += !traffic.touched[i];
    traffic.touched[i] = true;
  }
  const int turn = take_turn(place);
  Pieces& request = requests[{place, current_thread() / kWarp, turn}];
  request.traffic = &traffic;
  request.pieces.emplace_back(reinterpret_cast<uintptr_t>(p), bytes);
}

// Sectors of which somebody asked for a byte.
int64_t distinct_sectors(const Traffic& traffic, uintptr_t begin) {
  int64_t count = 0;
  uintptr_t last = 0;
  for (std::size_t i = 0; i < traffic.touched.size(); ++i) {
    if (!traffic.touched[i] || (begin + i) / kSector == last) continue;
    last = (begin + i) / kSector;
    ++count;
  }
  return count;
}

void close_requests() {
  for (auto& [request, found] : requests) {
    std::vector<uintptr_t> sectors;
    std::size_t useful = 0;
    std::sort(found.pieces.begin(), found.pieces.end());
    uintptr_t reached = 0;
    for (const auto& [begin, bytes] : found.pieces) {
      const uintptr_t end = begin + bytes, from = std::max(begin, reached);
      useful += end > from ? end - from : 0;
      reached = std::max(reached, end);
      for (uintptr_t s = begin / kSector; s <= (end - 1) / kSector; ++s) sectors.push_back(s);
    }
    sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
    ++found.traffic->requests;
    found.traffic->sectors += static_cast<int64_t>(sectors.size());
    found.traffic->useful += static_cast<int64_t>(useful);
  }
  requests.clear();
  turns.clear();
}

}  // namespace

namespace {

// A GPU need not see what a launch has stored where it reads memory that does not change.
void check_table(Allocation& a, bool write, bool table) {
  const bool before = a.changed && a.table;
  a.changed |= write;
  a.table |= table;
  if (before || !a.changed || !a.table) return;
  report("a launch changes memory that it reads as a table, block " +
         std::to_string(block_index.x) + " thread " + std::to_string(thread_index.x));
}

bool check_access(const void* p, std::size_t bytes, bool write, bool table, const void* place) {
  const Quiet quiet;
  const auto at = reinterpret_cast<uintptr_t>(p);
  auto found = allocations.upper_bound(at);
  const bool inside = found != allocations.begin() && (--found, at + bytes <= found->second.end);
  if (!inside || at % bytes) {
    const std::string what = std::to_string(bytes) + "-byte " + (write ? "store" : "load");
    report((inside ? "misaligned " : "out of bounds: ") + what + " at " + hex(p) + ", block " +
           std::to_string(block_index.x) + " thread " + std::to_string(thread_index.x));
    return false;
  }
  check_table(found->second, write, table);
  count_access(found->second.traffic[write], found->second, p, bytes, place);
  return true;
}

}  // namespace

bool access(const void* p, std::size_t bytes, bool write) {
  if (!p) {
    if (config.count_sectors) take_turn(__builtin_return_address(0));
    return false;
  }
  const bool good = check_access(p, bytes, write, false, __builtin_return_address(0));
  maybe_preempt();
  return good;
}

bool access_table(const void* p, std::size_t bytes) {
  const bool good = check_access(p, bytes, false, true, __builtin_return_address(0));
  maybe_preempt();
  return good;
}

void use_shared(SharedMemory* memory) { shared = memory; }

void open_shared(int dynamic_bytes) {
  const auto bytes = static_cast<std::size_t>(dynamic_bytes);
  shared->dynamic = bytes > 0 ? new_shared(&shared->dynamic, bytes) : nullptr;
}

void close_shared() {
  for (const SharedArray& s : shared->arrays) {
    sanitize_guard(s.memory + s.bytes, kGuard, false);
    for (int i = 0; i < kGuard; ++i) {
      if (s.memory[s.bytes + i] == kGuardByte) continue;
      report("shared memory overrun by a store, block " + std::to_string(block_index.x));
      break;
    }
    retired.push_back(s.memory);
  }
  shared->arrays.clear();
  close_requests();
}

void finish_requests() {
  for (void* memory : retired) std::free(memory);
  retired.clear();
  for (auto& [begin, allocation] : allocations) allocation.changed = allocation.table = false;
}

void* static_shared(const void* key, std::size_t bytes) {
  for (const SharedArray& s : shared->arrays) {
    if (s.key == key) return s.memory;
  }
  return new_shared(key, bytes);
}

unsigned char* dynamic_shared() { return shared->dynamic; }

}  // namespace emulator

// ---- what Python calls
// ----------------------------------------------------------------------------
extern "C" {

void emulator_allow(const void* p, int64_t bytes, int number) {
  const auto begin = reinterpret_cast<uintptr_t>(p);
  if (bytes > 0)
    emulator::allocations[begin] = {begin, begin + static_cast<uintptr_t>(bytes), number, {}, false,
                                    false};
}

void emulator_forget() { emulator::allocations.clear(); }

// bytes, distinct bytes, requests, sectors, useful bytes, distinct sectors, widest; read then
// written, of all allocations with this number.
void emulator_traffic(int number, int64_t (*out)[7]) {
  std::memset(out, 0, 14 * sizeof(int64_t));
  for (const auto& [begin, a] : emulator::allocations) {
    if (a.number != number) continue;
    for (int w = 0; w < 2; ++w) {
      const emulator::Traffic& t = a.traffic[w];
      const int64_t values[6] = {t.bytes,   t.distinct, t.requests,
                                 t.sectors, t.useful,   emulator::distinct_sectors(t, a.begin)};
      for (int i = 0; i < 6; ++i) out[w][i] += values[i];
      out[w][6] = std::max(out[w][6], t.widest);
    }
  }
}
}
