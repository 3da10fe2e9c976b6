// SPDX-License-Identifier: Apache-2.0
// SumTables as plan_store prepares them: only where the partial sums of chunks are not the norms.
#pragma once
#include "chunk_mirrors.h"
#include "plan_sums.h"

extern "C" void emulator_allow(const void* p, int64_t bytes, int number);

namespace symfast {

inline SumTables sum_tables(const int64_t* task_words, const int64_t* chunk_words,
                            int64_t chunk_count, int64_t mirrors, bool by_group, int64_t partials) {
  const auto* tasks = reinterpret_cast<const Task*>(task_words);
  const auto* chunks = reinterpret_cast<const Chunk*>(chunk_words);
  bool in_place = partials == mirrors && !by_group;
  for (int64_t c = 0; c < chunk_count; ++c) {
    const ChunkMirrors touched = chunk_mirrors(tasks[chunks[c].task], chunks[c]);
    in_place = in_place && touched.in_place(chunks[c].partial);
  }
  SumTables tables;
  if (!in_place) tables = SumTables(tasks, chunks, chunk_count, mirrors, by_group, partials);
  constexpr int kTables = 99;  // a number that Python gives to no tensor
  emulator_allow(tables.words.data(), tables.sizes.words * 8, kTables);
  return tables;
}

}  // namespace symfast
