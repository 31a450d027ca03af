// The ggml of the process that loads this library. Nothing is linked: what is missing is told, not crashed on.
#pragma once

#include <string>
#include <vector>

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace luq {

struct Ggml {
    decltype(&ggml_version) version;
    decltype(&ggml_tensor_overhead) tensor_overhead;
    decltype(&ggml_get_type_traits) type_traits;
    decltype(&ggml_get_type_traits_cpu) type_traits_cpu;
    decltype(&ggml_nbytes) nbytes;
    decltype(&ggml_backend_buffer_init) buffer_init;
    decltype(&ggml_backend_buft_alloc_buffer) buft_alloc_buffer;
    decltype(&ggml_backend_buft_name) buft_name;
    decltype(&ggml_backend_buft_get_device) buft_get_device;
    decltype(&ggml_backend_buft_is_host) buft_is_host;
    decltype(&ggml_backend_buffer_get_base) buffer_get_base;
    decltype(&ggml_backend_buffer_get_size) buffer_get_size;
    decltype(&ggml_backend_buffer_get_type) buffer_get_type;
    decltype(&ggml_backend_buffer_get_usage) buffer_get_usage;
    decltype(&ggml_backend_buffer_set_usage) buffer_set_usage;
    decltype(&ggml_backend_buffer_free) buffer_free;
    decltype(&ggml_backend_cpu_reg) cpu_reg;
    decltype(&ggml_backend_cpu_buffer_type) cpu_buffer_type;
    decltype(&ggml_backend_reg_dev_get) reg_dev_get;
    decltype(&ggml_backend_reg_get_proc_address) reg_get_proc_address;
    void (*barrier)(ggml_threadpool *);
    void (*chunk_set)(ggml_threadpool *, int);
    int (*chunk_add)(ggml_threadpool *, int);
    std::vector<ggml_backend_buffer_type_t> & (*extra_buffer_types)();

    // Fills in all of it; returns a sentence where that fails.
    std::string find();
};

}  // namespace luq
