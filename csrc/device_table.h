// SPDX-License-Identifier: Apache-2.0
// Tables of words (addresses, sizes) that are too long for a kernel's arguments travel in pieces by
// value: no host memory is read later, so a captured graph replays them.
#pragma once
#include "lanes.cuh"
#include "launch.h"

namespace symfast {

constexpr int kTableWords = 472;
struct TableArguments {
  int64_t* table;
  int64_t count;
  int64_t words[kTableWords];
};
static_assert(sizeof(TableArguments) <= 4000, "kernel arguments must fit the smallest limit");

template <int = 0>  // a template, so that several files may include it
SF_KERNEL(kBlock, 1) write_table(SF_ARGUMENT TableArguments a) {
  for (int64_t n = threadIdx.x; n < a.count; n += blockDim.x) store(a.table + n, a.words[n]);
}

// Words from the host to `table` on the device: one launch for every kTableWords.
inline void send_table(const int64_t* words, int64_t total, int64_t* table, void* stream) {
  for (int64_t first = 0; first < total; first += kTableWords) {
    TableArguments piece{};
    piece.table = table + first;
    piece.count = total - first < kTableWords ? total - first : kTableWords;
    for (int64_t n = 0; n < piece.count; ++n) piece.words[n] = words[first + n];
    launch(write_table<>, {1, kBlock, 0, stream}, piece);
  }
}

}  // namespace symfast
