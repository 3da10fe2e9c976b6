// SPDX-License-Identifier: Apache-2.0
#include "isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <stdexcept>

#ifdef SYMFAST_X86_ISAS
#include <cpuid.h>
#endif

namespace symfast {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

#ifdef SYMFAST_X86_ISAS
constexpr Isa kLastCompiled = Isa::avx512;

// __builtin_cpu_supports("f16c") is missing from older compilers: ask the processor.
bool has_f16c() noexcept {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#else
constexpr Isa kLastCompiled = Isa::baseline;
#endif

std::vector<std::string> names_up_to(Isa last) {
  return {std::begin(kNames), std::begin(kNames) + static_cast<int>(last) + 1};
}

Isa best_isa() noexcept {
#ifdef SYMFAST_X86_ISAS
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
  return Isa::baseline;
#endif
}

// -1 if there is no such instruction set.
int index_of(const std::string& name) noexcept {
  const auto* found = std::find(std::begin(kNames), std::end(kNames), name);
  return found == std::end(kNames) ? -1 : static_cast<int>(found - std::begin(kNames));
}

// An unknown or unsupported wish is ignored here: an environment variable must not break an import.
Isa initial_isa() noexcept {
  const Isa best = best_isa();
  const char* wish = std::getenv("SYMFAST_CPU_CAPABILITY");
  const int index = wish == nullptr ? -1 : index_of(wish);
  return index < 0 ? best : std::min(best, static_cast<Isa>(index));
}

std::atomic<Isa>& active() noexcept {
  static std::atomic<Isa> isa{initial_isa()};
  return isa;
}

}  // namespace

std::vector<std::string> compiled_isas() { return names_up_to(kLastCompiled); }

std::vector<std::string> supported_isas() { return names_up_to(best_isa()); }

Isa active_isa() noexcept { return active().load(std::memory_order_relaxed); }

std::string active_isa_name() { return kNames[static_cast<int>(active_isa())]; }

void set_active_isa(const std::string& name) {
  const int index = index_of(name);
  if (index < 0 || index > static_cast<int>(best_isa())) {
    throw std::invalid_argument("CPU capability '" + name + "' is not available here; this build " +
                                "on this processor goes up to '" +
                                kNames[static_cast<int>(best_isa())] + "'");
  }
  active().store(static_cast<Isa>(index), std::memory_order_relaxed);
}

}  // namespace symfast
