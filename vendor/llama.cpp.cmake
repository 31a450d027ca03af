# Read by CMake behind llama.cpp's project() call (CMAKE_PROJECT_INCLUDE): flags for its targets, without a change in its
# sources. LUQ_CPU_FLAGS are those of the CPU; LUQ_BARRIER=OFF leaves amx_tile_config.h out, to show what it is for.
if(NOT CMAKE_CURRENT_SOURCE_DIR STREQUAL CMAKE_SOURCE_DIR)
  return()
endif()

option(LUQ_BARRIER "include amx_tile_config.h" ON)
set(LUQ_VENDOR ${CMAKE_CURRENT_LIST_DIR})

function(luq_set_flags)
  separate_arguments(cpu_flags UNIX_COMMAND "${LUQ_CPU_FLAGS}")
  target_compile_options(ggml-cpu PRIVATE ${cpu_flags})
  if(LUQ_BARRIER)
    target_compile_options(ggml-cpu PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include ${LUQ_VENDOR}/amx_tile_config.h>")
  endif()
  # Command lines, chat formats, HTTP and graphs of vision towers: most of the compiler's time at -O3, and what computes
  # with tensors is ggml's and stays at -O3.
  foreach(target llama-common cpp-httplib server-context llama-server-impl llama-bench-impl llama-quantize-impl mtmd
                 llama-mtmd-cli llama-gguf-split)
    if(TARGET ${target})
      target_compile_options(${target} PRIVATE -O1)
    endif()
  endforeach()
  target_compile_options(llama PRIVATE -O2)
endfunction()

cmake_language(DEFER CALL luq_set_flags)
