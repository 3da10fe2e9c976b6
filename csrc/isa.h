// SPDX-License-Identifier: Apache-2.0
// Run-time choice of instruction set. A `<stem>_simd.cpp` is compiled once per instruction set,
// with everything in `namespace symfast::SYMFAST_ISA`; `<stem>.cpp` declares those functions with
// SYMFAST_DECLARE_PER_ISA and takes the address of the right one with SYMFAST_PICK:
//
//   SYMFAST_DECLARE_PER_ISA(void scale(double* x, std::int64_t n, double factor);)
//   ...
//   const auto scale = SYMFAST_PICK(scale);  // a plain function pointer
#pragma once

#include <string>
#include <vector>

namespace symfast {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

// Instruction sets in this binary, and those of them that this processor can run; slowest first.
std::vector<std::string> compiled_isas();
std::vector<std::string> supported_isas();

// The one in use: the best supported, lowered by SYMFAST_CPU_CAPABILITY or set_active_isa.
Isa active_isa() noexcept;
std::string active_isa_name();

// Throws std::invalid_argument if `name` is unknown or not supported here.
void set_active_isa(const std::string& name);

template <typename Function>
Function* pick(Function* baseline, Function* avx2, Function* avx512) noexcept {
  const Isa isa = active_isa();
  return isa == Isa::avx512 ? avx512 : isa == Isa::avx2 ? avx2 : baseline;
}

}  // namespace symfast

#ifdef SYMFAST_X86_ISAS
#define SYMFAST_DECLARE_PER_ISA(...) \
  namespace baseline {               \
  __VA_ARGS__                        \
  }                                  \
  namespace avx2 {                   \
  __VA_ARGS__                        \
  }                                  \
  namespace avx512 {                 \
  __VA_ARGS__                        \
  }
#define SYMFAST_PICK(...) \
  ::symfast::pick(&baseline::__VA_ARGS__, &avx2::__VA_ARGS__, &avx512::__VA_ARGS__)
#else
#define SYMFAST_DECLARE_PER_ISA(...) \
  namespace baseline {               \
  __VA_ARGS__                        \
  }
#define SYMFAST_PICK(...) (&baseline::__VA_ARGS__)
#endif
