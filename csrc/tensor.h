// SPDX-License-Identifier: Apache-2.0
// What every operator asks of its tensors, in words. Checks sit in the registered kernels: a call
// through torch.ops passes through them too.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <stdexcept>
#include <string>

#include "plan_call.h"

namespace symfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Message pieces are put together only when the check fails.
template <typename... Pieces>
void require(bool holds, const Pieces&... pieces) {
  if (holds) return;
  std::ostringstream words;
  words << "symfast: ";
  (words << ... << pieces);
  throw std::runtime_error(words.str());
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
    case ScalarType::Double: return Number::f64;
    case ScalarType::Float: return Number::f32;
    case ScalarType::BFloat16: return Number::bf16;
    case ScalarType::Half: return Number::f16;
    default: break;
  }
  require(false, what, " must be float64, float32, bfloat16 or float16");
  return Number::f64;
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
