// SPDX-License-Identifier: Apache-2.0
// What memory gives: rw[i] = rw[i] + sum of `reads` other streams, by plain threads, best compiler
// code. Compiled and called by machine.py.
#include <pthread.h>
#include <stdint.h>

typedef struct {
  float* rw;
  const float* r;
  int64_t n, begin, end, reads;
} Part;

static void* part(void* argument) {
  const Part* p = argument;
  // blocks of 1024 keep every stream's addresses in order, as a kernel over groups does
  for (int64_t b = p->begin; b < p->end; b += 1024) {
    const int64_t stop = b + 1024 < p->end ? b + 1024 : p->end;
    for (int64_t q = 0; q < p->reads; ++q) {
      const float* r = p->r + q * p->n;
      for (int64_t i = b; i < stop; ++i) p->rw[i] += r[i];
    }
    if (!p->reads) {
      for (int64_t i = b; i < stop; ++i) p->rw[i] *= 1.0000001f;
    }
  }
  return 0;
}

// Reads alone: 64 sums, kept, so that the compiler keeps the loads.
static void* read_part(void* argument) {
  Part* p = argument;
  float sums[64] = {0};
  int64_t i = p->begin;
  for (; i + 64 <= p->end; i += 64) {
    for (int64_t l = 0; l < 64; ++l) sums[l] += p->r[i + l];
  }
  for (int64_t l = 1; l < 64; ++l) sums[0] += sums[l];
  p->rw[p->reads] = sums[0];
  return 0;
}

void read_stream(float* found, const float* r, int64_t n, int64_t threads) {
  pthread_t ids[64];
  Part parts[64];
  if (threads > 64) threads = 64;
  for (int64_t t = 0; t < threads; ++t) {
    parts[t] = (Part){found, r, n, n / threads * t, n / threads * (t + 1), t};
    pthread_create(&ids[t], 0, read_part, &parts[t]);
  }
  for (int64_t t = 0; t < threads; ++t) pthread_join(ids[t], 0);
}

void stream(float* rw, const float* r, int64_t n, int64_t reads, int64_t threads) {
  pthread_t ids[64];
  Part parts[64];
  if (threads > 64) threads = 64;
  for (int64_t t = 0; t < threads; ++t) {
    parts[t] = (Part){rw, r, n, n / threads * t, t + 1 == threads ? n : n / threads * (t + 1), reads};
    pthread_create(&ids[t], 0, part, &parts[t]);
  }
  for (int64_t t = 0; t < threads; ++t) pthread_join(ids[t], 0);
}
