#include "ggml_api.h"

#include <dlfcn.h>
#if defined(__linux__)
#include <link.h>
#endif

#include <cstring>

namespace luq {
namespace {

#if defined(__linux__)
// Libraries that ggml or Python loaded are not in the global scope: they are looked up by their paths.
int note_ggml_cpu(dl_phdr_info * info, size_t, void * paths) {
    const char * name = info->dlpi_name ? std::strrchr(info->dlpi_name, '/') : nullptr;
    if (name && std::strncmp(name, "/libggml-cpu", 12) == 0) {
        static_cast<std::vector<std::string> *>(paths)->push_back(info->dlpi_name);
    }
    return 0;
}
#endif

// The library with the CPU backend, or the whole process where no library has that name.
std::string find_library(void *& handle) {
    std::vector<std::string> paths;
#if defined(__linux__)
    dl_iterate_phdr(note_ggml_cpu, &paths);
#endif
    if (paths.size() > 1) return "This process has two copies of ggml: " + paths[0] + " and " + paths[1] + ".";
    handle = paths.empty() ? dlopen(nullptr, RTLD_LAZY) : dlopen(paths[0].c_str(), RTLD_LAZY | RTLD_NOLOAD);
    return handle ? "" : "ggml's CPU library cannot be looked into.";
}

template <class F>
bool look_up(void * handle, const char * name, F & function) {
    void * found = dlsym(handle, name);
    std::memcpy(&function, &found, sizeof found);
    return found != nullptr;
}

}  // namespace

std::string Ggml::find() {
    void * handle = nullptr;
    const std::string failure = find_library(handle);
    if (!failure.empty()) return failure;
    const char * missing = nullptr;
    const auto need = [&](const char * name, auto & function) {
        if (!look_up(handle, name, function) && !missing) missing = name;
    };
    need("ggml_version", version);
    need("ggml_tensor_overhead", tensor_overhead);
    need("ggml_get_type_traits", type_traits);
    need("ggml_get_type_traits_cpu", type_traits_cpu);
    need("ggml_nbytes", nbytes);
    need("ggml_backend_buffer_init", buffer_init);
    need("ggml_backend_buft_alloc_buffer", buft_alloc_buffer);
    need("ggml_backend_buft_name", buft_name);
    need("ggml_backend_buft_get_device", buft_get_device);
    need("ggml_backend_buft_is_host", buft_is_host);
    need("ggml_backend_buffer_get_base", buffer_get_base);
    need("ggml_backend_buffer_get_size", buffer_get_size);
    need("ggml_backend_buffer_get_type", buffer_get_type);
    need("ggml_backend_buffer_get_usage", buffer_get_usage);
    need("ggml_backend_buffer_set_usage", buffer_set_usage);
    need("ggml_backend_buffer_free", buffer_free);
    need("ggml_backend_cpu_reg", cpu_reg);
    need("ggml_backend_cpu_buffer_type", cpu_buffer_type);
    need("ggml_backend_reg_dev_get", reg_dev_get);
    need("ggml_backend_reg_get_proc_address", reg_get_proc_address);
    need("ggml_barrier", barrier);
    need("ggml_threadpool_chunk_set", chunk_set);
    need("ggml_threadpool_chunk_add", chunk_add);
    // C++, as g++ and clang write std::vector<ggml_backend_buffer_type *> & ggml_backend_cpu_get_extra_buffer_types().
    need("_Z39ggml_backend_cpu_get_extra_buffer_typesv", extra_buffer_types);
    if (!missing) return "";
    return std::string("This ggml has no symbol ") + missing + " to be found: it is static, or another one.";
}

}  // namespace luq
