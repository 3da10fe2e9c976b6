set(CXX_WARNINGS -Wall -Wextra)
# Spills and local memory are performance bugs: ptxas names them.
set(CUDA_WARNINGS -Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas -Xptxas=-warn-spills,-warn-lmem-usage)
if(SYMFAST_WERROR)
  list(APPEND CXX_WARNINGS -Werror)
  list(APPEND CUDA_WARNINGS -Werror=all-warnings -Xptxas=-Werror)
endif()
add_library(symfast_warnings INTERFACE)
target_compile_options(symfast_warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${CXX_WARNINGS}>" "$<$<COMPILE_LANGUAGE:CUDA>:${CUDA_WARNINGS}>")

if(SYMFAST_SANITIZE)  # -O1: checks at -O3 take ten times as long to compile
  set(SANITIZE_OPTIONS -fsanitize=${SYMFAST_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${SANITIZE_OPTIONS};-g;-O1>")
  add_link_options(${SANITIZE_OPTIONS})
endif()
