#include "abi.h"

#include "blocks.h"

// The build sets these to what the headers' ggml says of itself; tests, to something else.
#ifndef LUQ_GGML_VERSION
#error "LUQ_GGML_VERSION is the version of the ggml whose headers these are"
#endif
#ifndef LUQ_API_VERSION
#define LUQ_API_VERSION GGML_BACKEND_API_VERSION
#endif
#ifndef LUQ_EXTRA_TENSOR_BYTES
#define LUQ_EXTRA_TENSOR_BYTES 0
#endif

namespace luq {
namespace {

constexpr size_t kObjectBytes = 32;  // of ggml_object, which no header shows: two sizes, a pointer, a padded enum

std::string differs(const char * what, const std::string & found, const std::string & built) {
    return std::string("This ggml's ") + what + " is " + found + ", the kernels were built for " + built + ".";
}

std::string type_difference(const Ggml & ggml, ggml_type type, const char * name, size_t n_bytes) {
    const ggml_type_traits * file = ggml.type_traits(type);
    const ggml_type_traits * dot = ggml.type_traits(GGML_TYPE_Q8_K);
    if (!file->type_name || std::string(file->type_name) != name || file->blck_size != kColumns ||
        file->type_size != n_bytes || !file->to_float) {
        return std::string("This ggml's ") + name + " is not the one that the kernels were built for.";
    }
    if (dot->blck_size != kColumns || dot->type_size != 292 || !ggml.type_traits_cpu(GGML_TYPE_Q8_K)->from_float ||
        ggml.type_traits_cpu(type)->vec_dot_type != GGML_TYPE_Q8_K) {
        return std::string("This ggml multiplies ") + name + " in another way than the one the kernels were built for.";
    }
    return "";
}

std::string types_difference(const Ggml & ggml) {
    const std::string found = type_difference(ggml, GGML_TYPE_IQ1_M, "iq1_m", block_bytes(Type::iq1_m));
    return found.empty() ? type_difference(ggml, GGML_TYPE_IQ1_S, "iq1_s", block_bytes(Type::iq1_s)) : found;
}

// A buffer of the CPU backend, seen through our structs and through ggml's functions.
std::string buffers_difference(const Ggml & ggml) {
    const ggml_backend_buffer_type_t buft = ggml.cpu_buffer_type();
    const ggml_backend_buffer_t buffer = ggml.buft_alloc_buffer(buft, 192);
    if (!buffer) return "ggml's CPU backend has no memory to give.";
    ggml.buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_COMPUTE);
    const auto usage = GGML_BACKEND_BUFFER_USAGE_COMPUTE;
    const bool same = buffer->buft == ggml.buffer_get_type(buffer) && buffer->size == ggml.buffer_get_size(buffer) &&
                      buffer->usage == ggml.buffer_get_usage(buffer) && buffer->usage == usage &&
                      buffer->iface.get_base && buffer->iface.get_base(buffer) == ggml.buffer_get_base(buffer) &&
                      buft->device == ggml.buft_get_device(buft) && buft->iface.get_name &&
                      std::string(buft->iface.get_name(buft)) == ggml.buft_name(buft);
    ggml.buffer_free(buffer);
    return same ? "" : "This ggml's buffers are laid out in another way than the kernels were built for.";
}

}  // namespace

std::string abi_difference(const Ggml & ggml) {
    const std::string version = ggml.version();
    if (version != LUQ_GGML_VERSION) return differs("version", version, LUQ_GGML_VERSION);
    const int api = ggml.cpu_reg()->api_version;
    if (api != LUQ_API_VERSION) {
        return differs("backend API version", std::to_string(api), std::to_string(LUQ_API_VERSION));
    }
    const size_t overhead = kObjectBytes + sizeof(ggml_tensor) + LUQ_EXTRA_TENSOR_BYTES;
    if (ggml.tensor_overhead() != overhead) {
        return differs("tensor size", std::to_string(ggml.tensor_overhead()), std::to_string(overhead));
    }
    const std::string types = types_difference(ggml);
    return types.empty() ? buffers_difference(ggml) : types;
}

}  // namespace luq
