# CUDA is optional. Sets SYMFAST_WITH_CUDA, SYMFAST_CUDA_VERSION and SYMFAST_CUDA_ARCHITECTURES.
set(SYMFAST_WITH_CUDA OFF)
set(SYMFAST_CUDA_VERSION "")
set(SYMFAST_CUDA_ARCHITECTURES "")
if(SYMFAST_CUDA STREQUAL "OFF")
  return()
endif()

# Machine code for A100 (runs on 8.x) and H100, and PTX of the newest, which later GPUs compile when
# they first load it. `all-major` takes three times as long to build. Ask for another set with
# CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=... or CUDAARCHS=...; `native` needs a GPU in this machine.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  if(DEFINED ENV{CUDAARCHS})
    set(CMAKE_CUDA_ARCHITECTURES $ENV{CUDAARCHS})
  else()
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
endif()
set(ARCHITECTURES ${CMAKE_CUDA_ARCHITECTURES})

include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_ARCHITECTURES ${ARCHITECTURES})  # check_language empties it
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know that nvcc has it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  endif()
  set(SYMFAST_WITH_CUDA ON)
  include(CheckCompilerFlag)
  check_compiler_flag(CUDA -frandom-seed=symfast SYMFAST_CUDA_SEED)  # else names differ at every build
  set(SYMFAST_CUDA_VERSION "${CMAKE_CUDA_COMPILER_VERSION}")
  list(JOIN ARCHITECTURES " " SYMFAST_CUDA_ARCHITECTURES)
elseif(SYMFAST_CUDA STREQUAL "ON")
  message(FATAL_ERROR "SYMFAST_CUDA=ON, but no working nvcc was found. Put nvcc on PATH or set CUDACXX.")
else()
  message(STATUS "symfast: no working nvcc, CUDA kernels left out (SYMFAST_CUDA=ON makes this an error)")
endif()
