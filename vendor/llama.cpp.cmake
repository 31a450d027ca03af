# Read by CMake behind llama.cpp's project() call (CMAKE_PROJECT_INCLUDE): flags for its targets, without a change in its
# sources. LUQ_CPU_FLAGS are those of the CPU; LUQ_BARRIER=OFF leaves amx_tile_config.h out and LUQ_BATCHES=OFF
# amx_batches.cpp, to show what they are for.
if(NOT CMAKE_CURRENT_SOURCE_DIR STREQUAL CMAKE_SOURCE_DIR)
  return()
endif()

option(LUQ_BARRIER "include amx_tile_config.h" ON)
option(LUQ_BATCHES "compile amx_batches.cpp" ON)
set(LUQ_VENDOR ${CMAKE_CURRENT_LIST_DIR})

function(luq_set_flags)
  separate_arguments(cpu_flags UNIX_COMMAND "${LUQ_CPU_FLAGS}")
  target_compile_options(ggml-cpu PRIVATE ${cpu_flags})
  if(LUQ_BARRIER)
    target_compile_options(ggml-cpu PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include ${LUQ_VENDOR}/amx_tile_config.h>")
  endif()
  if(LUQ_BATCHES)
    target_sources(ggml-cpu PRIVATE ${LUQ_VENDOR}/amx_batches.cpp)
    set(amx ${CMAKE_SOURCE_DIR}/ggml/src/ggml-cpu/amx)
    set_property(SOURCE ${amx}/mmq.cpp TARGET_DIRECTORY ggml-cpu APPEND PROPERTY COMPILE_DEFINITIONS
                 ggml_backend_amx_mul_mat=luq_amx_mul_mat)
    set_property(SOURCE ${amx}/amx.cpp TARGET_DIRECTORY ggml-cpu APPEND PROPERTY COMPILE_DEFINITIONS
                 ggml_is_contiguous=luq_amx_takes)
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
