// SPDX-License-Identifier: Apache-2.0
// The real step kernels and their launcher, compiled for the emulator.
#include "update_launch.h"

extern "C" {

// Lists of addresses as long as `tensors`, null where the rule has none.
struct EmulatedUpdate {
  int64_t rule, rows;
  const double* settings;
  const int64_t* keys;
  const float *grad_scale, *found_inf;
  int64_t tensors;
  void **params, **grads, **first, **second, **steps;
  const int64_t* sizes;
  int64_t* table;
};

void emulated_update(const EmulatedUpdate* u, int64_t /*unused*/) {
  using namespace symfast;
  std::vector<int64_t> words;
  for (int64_t t = 0; t < u->tensors; ++t) {
    for (void** const list : {u->params, u->grads, u->first, u->second, u->steps}) {
      words.push_back(list ? reinterpret_cast<int64_t>(list[t]) : 0);
    }
    words.push_back(u->sizes[t]);
    words.push_back(0);  // its first block
  }
  launch_update<EMULATED_TYPE>({static_cast<Rule>(u->rule), u->steps != nullptr, u->rows,
                                u->settings, u->keys, u->grad_scale, u->found_inf, words, u->table,
                                nullptr});
}
}
