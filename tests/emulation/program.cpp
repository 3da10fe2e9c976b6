// SPDX-License-Identifier: Apache-2.0
// Runs recorded calls (recording.py) as a program of its own, for the sanitizers: a sanitized
// library cannot be loaded into Python. A file of calls; order of threads and seed are arguments.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

extern "C" {
void emulator_configure(int order, unsigned seed, int preempt, int threads, int count_sectors);
void emulator_allow(const void* p, int64_t bytes, int number);
void emulator_forget();
int emulator_message(int number, char* out, int size);
}

namespace {

void read_bytes(std::FILE* file, void* out, int64_t size) {
  const auto bytes = static_cast<std::size_t>(size);
  if (bytes > 0 && std::fread(out, 1, bytes, file) != bytes) std::exit(3);
}

int64_t read_number(std::FILE* file) {
  int64_t number = 0;
  read_bytes(file, &number, sizeof number);
  return number;
}

using Memory = std::unique_ptr<char, decltype(&std::free)>;

// On the heap, exactly as long as it was: what lies behind it is not ours.
Memory read_memory(std::FILE* file) {
  const int64_t size = read_number(file);
  void* place = nullptr;
  if (posix_memalign(&place, 64, static_cast<std::size_t>(size))) std::exit(3);
  Memory memory(static_cast<char*>(place), &std::free);
  read_bytes(file, memory.get(), size);
  emulator_allow(memory.get(), size, 0);
  return memory;
}

char* read_place(std::FILE* file, const std::vector<Memory>& memory) {
  const int64_t number = read_number(file), offset = read_number(file);
  return number < 0 ? nullptr : memory[static_cast<std::size_t>(number)].get() + offset;
}

Memory read_table(std::FILE* file, const std::vector<Memory>& memory) {
  const auto count = static_cast<std::size_t>(read_number(file));
  Memory table(static_cast<char*>(std::calloc(count + 1, sizeof(char*))), &std::free);
  for (std::size_t i = 0; i < count; ++i) {
    char* const place = read_place(file, memory);
    std::memcpy(table.get() + i * sizeof place, &place, sizeof place);
  }
  return table;
}

void run(const std::string& entry, const void* arguments, const std::vector<int64_t>& numbers) {
  void* const found = dlsym(RTLD_DEFAULT, entry.c_str());
  if (!found || numbers.size() > 2) {
    std::printf("no function %s of this kind\n", entry.c_str());
    std::exit(3);
  }
  if (numbers.size() == 2) {
    reinterpret_cast<void (*)(const void*, int64_t, int64_t)>(found)(arguments, numbers[0],
                                                                     numbers[1]);
  } else {
    reinterpret_cast<void (*)(const void*, int64_t)>(found)(arguments, numbers.at(0));
  }
}

void run_call(std::FILE* file, int64_t name_length) {
  emulator_forget();
  const int64_t storages = read_number(file), tables = read_number(file);
  const int64_t bytes = read_number(file), places = read_number(file);
  std::string entry(static_cast<std::size_t>(name_length), ' ');
  read_bytes(file, entry.data(), name_length);
  std::vector<Memory> memory;
  for (int64_t n = 0; n < storages; ++n) memory.push_back(read_memory(file));
  for (int64_t n = 0; n < tables; ++n) memory.push_back(read_table(file, memory));
  std::vector<int64_t> arguments(static_cast<std::size_t>(bytes + 7) / 8);
  read_bytes(file, arguments.data(), bytes);
  for (int64_t n = 0; n < places; ++n) {
    const int64_t offset = read_number(file);
    char* const place = read_place(file, memory);
    std::memcpy(reinterpret_cast<char*>(arguments.data()) + offset, &place, sizeof place);
  }
  std::vector<int64_t> numbers(static_cast<std::size_t>(read_number(file)));
  for (int64_t& number : numbers) number = read_number(file);
  run(entry, arguments.data(), numbers);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  std::FILE* file = std::fopen(argv[1], "rb");
  if (!file) return 3;
  emulator_configure(std::atoi(argv[2]), static_cast<unsigned>(std::atoi(argv[3])), 20, 64, 0);
  int64_t calls = 0;
  for (int64_t name = read_number(file); name >= 0; name = read_number(file), ++calls) {
    run_call(file, name);
  }
  char text[400];
  int found = 0;
  for (; emulator_message(found, text, sizeof text); ++found) std::printf("%s\n", text);
  std::printf("%lld calls\n", static_cast<long long>(calls));
  return found ? 1 : 0;
}
