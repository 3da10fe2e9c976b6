# Compile the sources once per instruction set, each time into its own namespace SYMFAST_ISA;
# csrc/isa.h chooses at run time. The sources must not instantiate standard templates: the linker
# keeps one copy of an inline function, and it must not be the AVX one.
set(SYMFAST_SINGLE_ISA "" CACHE STRING
  "Compile for this x86 instruction set only and call it baseline: quick builds under sanitizers")
set(ISAS baseline)
set(ISA_FLAGS_baseline "")
# -mtune: the scheduling of plain x86-64 costs a fifth where all registers are in use
set(ISA_FLAGS_avx2 -mavx2 -mfma -mf16c -mtune=haswell)
set(ISA_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512
  -mtune=skylake-avx512)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT CMAKE_OSX_ARCHITECTURES MATCHES arm64)
  if(SYMFAST_SINGLE_ISA)
    set(ISA_FLAGS_baseline ${ISA_FLAGS_${SYMFAST_SINGLE_ISA}})
  else()
    list(APPEND ISAS avx2 avx512)
  endif()
endif()

# The last two give up errno and floating-point signals only, and let sqrt and branches vectorise.
set(SIMD_FLAGS -fopenmp-simd -ffp-contract=fast -fno-math-errno -fno-trapping-math)
if(SYMFAST_SANITIZE)  # with -O1 (warnings.cmake); the checks left out cost minutes each, and
  # AddressSanitizer sees what they see
  list(APPEND SIMD_FLAGS -fno-sanitize=null,object-size,pointer-overflow)
else()
  list(APPEND SIMD_FLAGS -O3)
endif()

function(symfast_add_simd target)
  foreach(isa IN LISTS ISAS)
    if(ARGN)
      add_library(simd_${isa} OBJECT ${ARGN})
      target_compile_definitions(simd_${isa} PRIVATE SYMFAST_ISA=${isa})
      target_compile_options(simd_${isa} PRIVATE ${SIMD_FLAGS} ${ISA_FLAGS_${isa}})
      target_link_libraries(simd_${isa} PRIVATE symfast_warnings)
      target_link_libraries(${target} PRIVATE simd_${isa})
    endif()
  endforeach()
  if("avx2" IN_LIST ISAS)
    target_compile_definitions(${target} PRIVATE SYMFAST_X86_ISAS)
  endif()
endfunction()
