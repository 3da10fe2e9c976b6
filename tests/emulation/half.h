// SPDX-License-Identifier: Apache-2.0
// CUDA's 16-bit types as storage, with its conversions (round to nearest even); kernels never
// compute in them.
#pragma once
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __half2float(__half x) {
  _Float16 half;
  std::memcpy(&half, &x, sizeof half);
  return static_cast<float>(half);
}

inline __half __float2half_rn(float x) {
  const auto half = static_cast<_Float16>(x);
  __half result;
  std::memcpy(&result, &half, sizeof half);
  return result;
}

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof bits);
  return result;
}

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (x != x) return {0x7fff};
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounding = 0x7fff + (bits >> 16 & 1);
  return {static_cast<uint16_t>((bits + rounding) >> 16)};
}
