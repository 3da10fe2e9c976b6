// SPDX-License-Identifier: Apache-2.0
// Runs recorded calls (emulated.py: record) as a program of its own, for the sanitizers: a
// sanitized library cannot be loaded into Python. A file of calls; order of threads and seed are
// arguments.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

extern "C" {
struct EmulatedPlan;
void emulated_plan(const EmulatedPlan* p, int64_t verb);
void emulator_configure(int order, unsigned seed, int preempt, int threads, int count_sectors);
void emulator_allow(const void* p, int64_t bytes, int number);
void emulator_forget();
int emulator_message(int number, char* out, int size);
}

namespace {

int64_t read_number(std::FILE* file) {
  int64_t number = 0;
  if (std::fread(&number, sizeof number, 1, file) != 1) std::exit(3);
  return number;
}

// A storage on the heap, exactly as long as it was, and the address of a place in it.
struct Memory {
  std::unique_ptr<char, decltype(&std::free)> bytes{nullptr, &std::free};
  void* place = nullptr;

  explicit Memory(std::FILE* file) {
    const int64_t size = read_number(file), offset = read_number(file);
    if (size == 0) return;
    bytes.reset(static_cast<char*>(std::aligned_alloc(64, (size + 63) / 64 * 64)));
    if (std::fread(bytes.get(), 1, static_cast<std::size_t>(size), file) !=
        static_cast<std::size_t>(size)) {
      std::exit(3);
    }
    emulator_allow(bytes.get(), size, 0);
    place = bytes.get() + offset;
  }
};

// The fields of EmulatedPlan in order, each 8 bytes: addresses are filled in here.
void run_call(std::FILE* file, int64_t verb) {
  emulator_forget();
  std::vector<Memory> memory;
  std::vector<void*> data;
  const int64_t tensors = read_number(file);
  for (int64_t n = 0; n < tensors; ++n) {
    memory.emplace_back(file);
    data.push_back(memory.back().place);
  }
  std::vector<int64_t> fields;
  const int64_t count = read_number(file);
  for (int64_t n = 0; n < count; ++n) {
    const int64_t kind = read_number(file);  // 0 a number, 1 memory, 2 the tensors
    if (kind == 0) {
      fields.push_back(read_number(file));
    } else if (kind == 1) {
      memory.emplace_back(file);
      fields.push_back(reinterpret_cast<int64_t>(memory.back().place));
    } else {
      fields.push_back(reinterpret_cast<int64_t>(data.data()));
    }
  }
  emulated_plan(reinterpret_cast<const EmulatedPlan*>(fields.data()), verb);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  std::FILE* file = std::fopen(argv[1], "rb");
  if (!file) return 3;
  emulator_configure(std::atoi(argv[2]), static_cast<unsigned>(std::atoi(argv[3])), 20, 64, 0);
  for (int64_t verb = read_number(file); verb >= 0; verb = read_number(file)) run_call(file, verb);
  char text[400];
  int found = 0;
  for (; emulator_message(found, text, sizeof text); ++found) std::printf("%s\n", text);
  return found ? 1 : 0;
}
