// One matrix product, shared by the threads of a pool.
#pragma once

#include "layout.h"

struct ggml_threadpool;  // ggml's; tests bring their own

namespace luq {

// One of the threads that enter `multiply` together.
struct Team {
    int ith, nth;
    ggml_threadpool * pool;
    void (*barrier)(ggml_threadpool *);
    void (*chunk_set)(ggml_threadpool *, int);
    int (*chunk_add)(ggml_threadpool *, int);
};

// ggml's quantization of activations to Q8_K: blocks of a float scale, 256 bytes and 16 sums.
using FromFloat = void (*)(const float * values, void * blocks, int64_t n_values);

// Activations by three indices, as ggml's tensors have them; all columns of the result follow one another.
struct Product {
    const uint8_t * weights;
    int n_rows, n_columns;  // of the weights
    const char * activations;
    int64_t ne[3];
    size_t nb[3];
    float * out;
};

size_t workspace_bytes(int64_t n, int n_columns);

void multiply(const Path & path, FromFloat from_float, const Product & product, const Team & team, void * workspace);

// Quantizes 256 activations.
void prepare(FromFloat from_float, const float * values, Activations & out);

}  // namespace luq
