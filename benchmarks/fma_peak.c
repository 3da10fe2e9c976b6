// SPDX-License-Identifier: Apache-2.0
// Measured peak of fused multiply-adds: independent registers, all threads at once. The vectors are
// as wide as -march=native has them; 0 where the compiler has no such vectors.
#include <pthread.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#define CLASS "v"
#elif defined(__FMA__)
#define BYTES 32
#define CLASS "x"
#endif

#if defined(BYTES)
typedef double Doubles __attribute__((vector_size(BYTES)));
enum { kRegisters = 10, kRounds = 20000000 };

// Written in assembly, because a compiler folds such a loop away or splits its vectors.
#define FMA(kind, x) __asm__ volatile("vfmadd213" kind " %1,%1,%0" : "+" CLASS(x) : CLASS(one))
#define ALL(kind) \
  FMA(kind, a);   \
  FMA(kind, b);   \
  FMA(kind, c);   \
  FMA(kind, d);   \
  FMA(kind, e);   \
  FMA(kind, f);   \
  FMA(kind, g);   \
  FMA(kind, h);   \
  FMA(kind, i);   \
  FMA(kind, j)

static void* work(void* is_double) {
  Doubles one = {0}, a = one, b = one, c = one, d = one, e = one;
  Doubles f = one, g = one, h = one, i = one, j = one;
  if (*(int*)is_double) {
    for (long round = 0; round < kRounds; ++round) {
      ALL("pd");
    }
  } else {
    for (long round = 0; round < kRounds; ++round) {
      ALL("ps");
    }
  }
  return 0;
}
#endif

double fma_peak(int threads, int is_double) {
#if defined(BYTES)
  pthread_t pool[256];
  struct timespec begin, end;
  if (threads > 256) threads = 256;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (int t = 0; t < threads; ++t) pthread_create(&pool[t], 0, work, &is_double);
  for (int t = 0; t < threads; ++t) pthread_join(pool[t], 0);
  clock_gettime(CLOCK_MONOTONIC, &end);
  const double seconds =
      (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
  const double lanes = BYTES / (is_double ? 8.0 : 4.0);
  return 2.0 * lanes * kRegisters * (double)kRounds * threads / seconds;
#else
  (void)threads;
  (void)is_double;
  return 0.0;
#endif
}
