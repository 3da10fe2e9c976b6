// SPDX-License-Identifier: Apache-2.0
// Two calls of parallel_for for ThreadSanitizer: what is ordered, then a race between ranges.
#include "parallel.h"

#include <cstdio>
#include <cstring>

namespace {

// Every range has elements of its own, which the caller wrote before and reads afterwards.
int ordered() {
  int own[64];
  for (int& x : own) x = 1;
  symfast::parallel_for(0, 64, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++own[i];
  });
  int sum = 0;
  for (const int x : own) sum += x;
  return sum;
}

int racy() {
  int shared = 0;
  symfast::parallel_for(0, 64, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++shared;
  });
  return shared;
}

}  // namespace

int main(int, char** arguments) {
  std::printf("%d\n", std::strcmp(arguments[1], "racy") == 0 ? racy() : ordered());
  return 0;
}
