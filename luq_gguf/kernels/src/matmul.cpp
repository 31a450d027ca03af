#include "matmul.h"

#include <algorithm>
#include <cstring>

namespace luq {
namespace {

// ggml's block_q8_K. Its own sums are not used: for a block of zeros ggml leaves them as they were.
struct Q8Block {
    float d;
    int8_t q[kColumns];
    int16_t sums[kColumns / 16];
};
static_assert(sizeof(Q8Block) == 292, "as in ggml");

constexpr int kChunksPerThread = 8;  // threads that were held up leave their chunks to the others

const float * column_at(const Product & product, int64_t column) {
    const int64_t i0 = column % product.ne[0], i1 = column / product.ne[0] % product.ne[1];
    const int64_t i2 = column / (product.ne[0] * product.ne[1]);
    const char * at = product.activations + i0 * product.nb[0] + i1 * product.nb[1] + i2 * product.nb[2];
    return reinterpret_cast<const float *>(at);
}

Activations * align(void * workspace) {
    constexpr uintptr_t mask = alignof(Activations) - 1;
    return reinterpret_cast<Activations *>((reinterpret_cast<uintptr_t>(workspace) + mask) & ~mask);
}

void compute(const Path & path, Task task) {
    if (!path.vector || task.n >= path.n_matrix) return path.matrix(task);
    for (int column = 0; column < task.n; ++column, ++task.activations, task.out += task.stride) path.vector(task);
}

}  // namespace

size_t workspace_bytes(int64_t n, int n_columns) {
    return static_cast<size_t>(n) * (n_columns / kColumns) * sizeof(Activations) + alignof(Activations);
}

void prepare(FromFloat from_float, const float * values, Activations & out) {
    Q8Block block;
    from_float(values, &block, kColumns);
    std::memcpy(out.q, block.q, sizeof out.q);
    for (int i = 0; i < 2 * kGroups; ++i) {
        int sum = 0;
        for (int j = 0; j < 8; ++j) sum += block.q[8 * i + j];
        out.sums[i] = static_cast<int16_t>(2 * sum);
    }
    for (int group = 0; group < kGroups; ++group) {
        out.offset[group] = -9 * (out.sums[2 * group] + out.sums[2 * group + 1]) / 2;
        out.offset16[group] = static_cast<int16_t>(out.offset[group]);
    }
    out.scale = 0.125f * block.d;
}

void multiply(const Path & path, FromFloat from_float, const Product & product, const Team & team, void * workspace) {
    const int n_superblocks = product.n_columns / kColumns;
    const int64_t n = product.ne[0] * product.ne[1] * product.ne[2];
    Activations * activations = align(workspace);
    for (int64_t i = team.ith; i < n * n_superblocks; i += team.nth) {
        prepare(from_float, column_at(product, i % n) + i / n * kColumns, activations[i]);
    }
    const int n_rowgroups = product.n_rows / kRows;
    int size = std::max(1, n_rowgroups / (team.nth * kChunksPerThread));
    size += size % 2;  // pairs share activations
    if (team.ith == 0) team.chunk_set(team.pool, team.nth);
    team.barrier(team.pool);

    const size_t row_step = n_superblocks * superblock_bytes(path.layout);
    for (int chunk = team.ith; chunk * size < n_rowgroups; chunk = team.chunk_add(team.pool, 1)) {
        const int first = chunk * size, count = std::min(size, n_rowgroups - first);
        const uint8_t * weights = product.weights + first * row_step;
        float * out = product.out + static_cast<size_t>(first) * kRows;
        const size_t stride = static_cast<size_t>(product.n_rows);
        compute(path, {weights, activations, out, stride, n_superblocks, count, static_cast<int>(n)});
    }
}

}  // namespace luq
