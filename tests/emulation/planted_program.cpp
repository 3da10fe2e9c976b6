// SPDX-License-Identifier: Apache-2.0
// One planted kernel as a program, for the sanitizers: arguments are its number, the order of
// threads and how many blocks.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" {
void run_planted(int number, const float* in, float* out, int count, int blocks);
void emulator_configure(int order, unsigned seed, int preempt, int threads, int count_sectors);
void emulator_allow(const void* p, int64_t bytes, int number);
int emulator_message(int number, char* out, int size);
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  std::vector<float> in(256, 1.0f), out(256, 0.0f);
  emulator_configure(std::atoi(argv[2]), 1, 0, 64, 0);  // TSan tells about 250 threads apart
  emulator_allow(in.data(), 1024, 0);
  emulator_allow(out.data(), 1024, 1);
  run_planted(std::atoi(argv[1]), in.data(), out.data(), 256, std::atoi(argv[3]));
  char text[400];
  int found = 0;
  for (; emulator_message(found, text, sizeof text); ++found) std::printf("%s\n", text);
  return found ? 1 : 0;
}
