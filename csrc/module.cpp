// SPDX-License-Identifier: Apache-2.0
// The Python module. It includes no torch header, so no C++ type crosses between this pybind11 and
// torch's own; the kernels register themselves with the dispatcher when the module is loaded.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <string>

#include "isa.h"
#include "plan_registry.h"

#define SYMFAST_TEXT(x) #x
#define SYMFAST_TEXT_OF(x) SYMFAST_TEXT(x)

namespace py = pybind11;

namespace symfast {
namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

// Defined by CMake from the configuration, so that a binary can always say how it was made.
py::typing::Dict<py::str, py::object> build_info() {
  py::typing::Dict<py::str, py::object> info;
  info["compiler"] = compiler();
  info["cxx_standard"] = static_cast<std::int64_t>(__cplusplus);
  info["pybind11"] = std::to_string(PYBIND11_VERSION_MAJOR) + "." +
                     std::to_string(PYBIND11_VERSION_MINOR) + "." +
                     SYMFAST_TEXT_OF(PYBIND11_VERSION_PATCH);
  info["torch_target_version"] = SYMFAST_TEXT_OF(TORCH_TARGET_VERSION);
  info["cuda"] = *SYMFAST_CUDA_VERSION != '\0';
  info["cuda_toolkit"] = SYMFAST_CUDA_VERSION;
  info["cuda_architectures"] = SYMFAST_CUDA_ARCHITECTURES;
  info["sanitizer"] = SYMFAST_SANITIZER;
  info["isas"] = compiled_isas();
  info["supported_isas"] = supported_isas();
  return info;
}

}  // namespace
}  // namespace symfast

// What is shared is atomic or behind a mutex, so an interpreter without the GIL need not take it
// back.
PYBIND11_MODULE(_C, module, py::mod_gil_not_used()) {
  module.doc() = "Compiled kernels of symfast: importing this module registers them with torch.";
  module.def("build_info", &symfast::build_info, "How this binary was compiled.");
  module.def("cpu_capability", &symfast::active_isa_name, "Instruction set the kernels use now.");
  module.def("set_cpu_capability", &symfast::set_active_isa, py::arg("name"),
             "Use 'baseline', 'avx2' or 'avx512' from now on; ValueError if not available here.");
  module.def("plan_drop", &symfast::drop_plan, py::arg("plan").noconvert(),
             "Forget the plan under this key; False if there is none.");
  module.def("plan_count", &symfast::count_plans, "How many plans are kept now.");
}
