// SPDX-License-Identifier: Apache-2.0
// a * b + c with one rounding. Written out, because a compiler that contracts by itself may choose
// differently for two lanes, and replicas must not depend on their lane. Specialised for vectors in
// arithmetic_simd.h.
#pragma once

#if defined(__CUDACC__)
#define SYMFAST_SWEEP_INLINE __host__ __device__ __forceinline__
#else
// Never emitted out of line, so copies compiled for different instruction sets cannot be mixed up.
#define SYMFAST_SWEEP_INLINE inline __attribute__((always_inline))
#endif

namespace symfast {

template <typename T>
struct Arithmetic {
  SYMFAST_SWEEP_INLINE static T multiply_add(T a, T b, T c) {
#if defined(__CUDACC__)
    return fma(a, b, c);
#else
    return sizeof(T) == 8 ? T(__builtin_fma(a, b, c)) : T(__builtin_fmaf(a, b, c));
#endif
  }
};

}  // namespace symfast
