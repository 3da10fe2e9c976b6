// SPDX-License-Identifier: Apache-2.0
// A step on a device as a plain function of pointers, sizes and a stream; no torch.
#pragma once
#include <vector>

#include "device_table.h"
#include "update.cuh"

namespace symfast {

// Parameters are rows of kUpdateWords words; kFirstBlock is filled in here.
struct UpdateLaunch {
  Rule rule;
  bool counts;  // there are step counters
  int64_t rows;
  const double* settings;
  const int64_t* keys;
  const float *grad_scale, *found_inf;
  std::vector<int64_t>& words;
  int64_t* table;  // device memory for the words, needed beyond kInlineTensors
  void* stream;
};

template <typename T>
void launch_update(const UpdateLaunch& call) {
  UpdateArguments a{};
  static_assert(sizeof(a) <= 4000, "kernel arguments must fit the smallest limit");
  a.tensors = static_cast<int64_t>(call.words.size()) / kUpdateWords;
  a.rows = call.rows;
  a.settings = call.settings;
  a.keys = call.keys;
  a.grad_scale = call.grad_scale;
  a.found_inf = call.found_inf;
  int64_t blocks = 0;
  for (int64_t t = 0; t < a.tensors; ++t) {
    call.words[t * kUpdateWords + kFirstBlock] = blocks;
    blocks += (call.words[t * kUpdateWords + kNumel] + kUpdateChunk - 1) / kUpdateChunk;
  }
  if (a.tensors > kInlineTensors) {
    send_table(call.words.data(), static_cast<int64_t>(call.words.size()), call.table, call.stream);
    a.table = call.table;
  } else {
    for (std::size_t n = 0; n < call.words.size(); ++n) a.words[n] = call.words[n];
  }
  const Launch shape{blocks, kBlock, 0, call.stream};
  if (call.rule == kSgd) {
    launch(update_kernel<T, kSgd>, shape, a);
  } else {
    launch(update_kernel<T, kAdam>, shape, a);
  }
  if (call.counts) {
    launch(count_steps, {(a.tensors + kBlock - 1) / kBlock, kBlock, 0, call.stream}, a);
  }
}

}  // namespace symfast
