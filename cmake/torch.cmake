# find_package(Torch) refuses a CUDA torch when the CUDA toolkit is absent, even for CPU-only sources.
# The stable ABI needs headers and one library, so look for those where pip puts them.
find_path(TORCH_INCLUDE_DIR torch/csrc/stable/library.h
  HINTS ${CMAKE_PREFIX_PATH} PATH_SUFFIXES torch/include NO_DEFAULT_PATH)
find_library(TORCH_CPU_LIBRARY torch_cpu
  HINTS ${CMAKE_PREFIX_PATH} PATH_SUFFIXES torch/lib NO_DEFAULT_PATH)
if(NOT TORCH_INCLUDE_DIR OR NOT TORCH_CPU_LIBRARY)
  message(FATAL_ERROR "symfast: torch>=2.13 was not found in the environment being installed into. "
    "Install torch first, then symfast.")
endif()

add_library(symfast_torch INTERFACE)
target_include_directories(symfast_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIR})
target_link_libraries(symfast_torch INTERFACE ${TORCH_CPU_LIBRARY})
# Symbols of torch 2.13: the binary loads into that version and every later one.
target_compile_definitions(symfast_torch INTERFACE TORCH_TARGET_VERSION=0x020d000000000000)
