set(CXX_WARNINGS -Wall -Wextra)
# Spills and local memory are performance bugs: ptxas names them.
set(CUDA_WARNINGS -Xcompiler=-Wall,-Wextra -Xptxas=-warn-spills,-warn-lmem-usage)
if(SYMFAST_WERROR)
  list(APPEND CXX_WARNINGS -Werror)
  list(APPEND CUDA_WARNINGS -Werror=all-warnings -Xptxas=-Werror)
endif()
add_library(symfast_warnings INTERFACE)
target_compile_options(symfast_warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${CXX_WARNINGS}>" "$<$<COMPILE_LANGUAGE:CUDA>:${CUDA_WARNINGS}>")

if(SYMFAST_SANITIZE)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${SYMFAST_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all;-g>")
  add_link_options(-fsanitize=${SYMFAST_SANITIZE})
endif()
