// SPDX-License-Identifier: Apache-2.0
// Group prox of plans for one element type, EMULATED_TYPE, compiled for the emulator.
#include "plan_prox_group_launch.h"
#include "sum_tables.h"

namespace symfast {

extern "C" {

struct EmulatedProxGroup {
  const int64_t *tasks, *chunks, *index;
  int64_t chunk_count;
  const void* frames;
  int64_t dense;
  const double* thresholds;
  double threshold;
  void** data;
  int64_t data_count;
  int64_t* pointers;
  int64_t mirrors, partials;
  double* workspace;
  int64_t tag;
};

void emulated_prox_group(const EmulatedProxGroup* p, int64_t) {
  const std::vector<void*> data(p->data, p->data + p->data_count);
  PlanLaunch call{p->tasks, p->chunks, p->index, p->chunk_count, p->frames, p->dense != 0, nullptr,
                  0.0,      kUniform,  nullptr,  nullptr,        data,      p->pointers,   nullptr};
  call.gathered = gathered_units(reinterpret_cast<const Task*>(p->tasks),
                                 reinterpret_cast<const Chunk*>(p->chunks), p->chunk_count);
  const SumTables tables =
      sum_tables(p->tasks, p->chunks, p->chunk_count, p->mirrors, false, p->partials);
  launch_prox_group<EMULATED_TYPE>(
      call, {p->thresholds, p->threshold, tables.words.data(), tables.sizes, p->partials,
             p->mirrors, p->workspace, p->tag});
}
}

}  // namespace symfast
