// SPDX-License-Identifier: Apache-2.0
// The real product-factor kernels and their launchers, compiled for the emulator.
#include "factor_launch.h"

using namespace symfast;

extern "C" {

// Without a gradient the product of the factors, with one the gradient of each.
struct EmulatedFactors {
  void **factors, **outputs;
  const void* gradient;
  int64_t depth, size;
};

void emulated_factor(const EmulatedFactors* f, int64_t /*unused*/) {
  launch_factor<EMULATED_TYPE>({f->factors, f->gradient, f->outputs, f->depth, f->size, nullptr});
}

struct EmulatedFactorStep {
  void **weights, **gradients, **factors, **velocities;
  const int64_t *sizes, *depths, *rows;
  int64_t count;
  const double* settings;
  int64_t* table;
};

void emulated_factor_step(const EmulatedFactorStep* s, int64_t /*unused*/) {
  std::vector<FactorItem> items;
  for (int64_t i = 0; i < s->count; ++i) {
    items.push_back({s->weights[i], s->gradients[i], s->factors[i],
                     s->velocities ? s->velocities[i] : nullptr, s->sizes[i], s->depths[i],
                     s->rows[i]});
  }
  launch_factor_step<EMULATED_TYPE>(items, s->settings, s->table, nullptr);
}
}
