// SPDX-License-Identifier: Apache-2.0
// What every operator asks of its tensors, in words. Checks sit in the registered kernels: a call
// through torch.ops passes through them too.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

#include "plan_call.h"

namespace symfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename... Pieces>
[[noreturn, gnu::noinline, gnu::cold]] void refuse(const Pieces&... pieces) {
  std::ostringstream words;
  words << "symfast: ";
  (words << ... << pieces);
  throw std::runtime_error(words.str());
}

// A check costs a branch; its message is put together out of line, when it fails.
template <typename... Pieces>
[[gnu::always_inline]] inline void require(bool holds, const Pieces&... pieces) {
  if (__builtin_expect(!holds, 0)) refuse(pieces...);
}

inline std::string sizes_of(const Tensor& tensor) {
  std::string words = "(";
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    words += (d ? ", " : "") + std::to_string(tensor.size(d));
  }
  return words + ")";
}

// The numbers kernels work on.
inline Number number_of(const Tensor& tensor, const char* what) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return Number::f64;
    case ScalarType::Float:
      return Number::f32;
    case ScalarType::BFloat16:
      return Number::bf16;
    case ScalarType::Half:
      return Number::f16;
    default:
      refuse(what, " must be float64, float32, bfloat16 or float16");
  }
}

inline ScalarType accumulate_type(Number number) {
  return number == Number::f64 ? ScalarType::Double : ScalarType::Float;
}

inline int64_t accumulate_bytes(Number number) { return number == Number::f64 ? 8 : 4; }

// A flat or shaped table on the CPU that a kernel reads through a plain pointer.
inline void require_table(const Tensor& tensor, ScalarType type, const char* type_name,
                          const char* what) {
  require(tensor.scalar_type() == type, what, " must be ", type_name);
  require(tensor.is_cpu(), what, " must be on the CPU, where the parameters are");
  require(tensor.is_contiguous(), what, " must be contiguous");
}

}  // namespace symfast
