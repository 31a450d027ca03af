// Compiled into ggml-cpu by llama.cpp.cmake, which gives ggml's own ggml_backend_amx_mul_mat the name luq_amx_mul_mat.
//
// ggml's AMX products of more than one batch add offsets in bytes to pointers of floats, and read and write memory outside
// of the tensors: several sequences through a gated delta net (Qwen3.5) are such a product. Here the batches of one matrix
// become one. Latent attention (DeepSeek) has as many matrices as heads, and its columns have gaps, which AMX products
// cannot read: ggml asks that only when the tensors have been placed, and aborts. Such tensors stay out of the AMX buffer.
#include "ggml.h"

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__)

#include "amx/mmq.h"

void luq_amx_mul_mat(const struct ggml_compute_params * params, struct ggml_tensor * dst);

// Stands for ggml_is_contiguous in amx.cpp, which asks it of a product's weights and of its inputs, F32.
extern "C" bool luq_amx_takes(const struct ggml_tensor * tensor) {
    const bool one_matrix = tensor->ne[2] == 1 && tensor->ne[3] == 1;
    return ggml_is_contiguous(tensor) && (one_matrix || tensor->type == GGML_TYPE_F32);
}

// The same elements, contiguous, as one matrix.
static struct ggml_tensor flat(const struct ggml_tensor * tensor) {
    struct ggml_tensor matrix = *tensor;
    matrix.ne[1] = ggml_nrows(tensor);
    matrix.ne[2] = matrix.ne[3] = 1;
    matrix.nb[2] = matrix.nb[3] = matrix.ne[1] * matrix.nb[1];
    return matrix;
}

void ggml_backend_amx_mul_mat(const struct ggml_compute_params * params, struct ggml_tensor * dst) {
    struct ggml_tensor inputs = flat(dst->src[1]);
    struct ggml_tensor product = flat(dst);
    product.src[1] = &inputs;
    luq_amx_mul_mat(params, &product);
}

#endif
