// kernels-run GRID: computes what it is told on stdin. GRID holds the 2048 rows of 8 weights of IQ1_M, a byte each.
//
// A case: a path's name in 16 bytes; rows, columns, n, threads, form (0 as in use, 1 column by column, 2 matrix), type
// (0 IQ1_M, 1 IQ1_S) as 32-bit numbers; the blocks of the weights; n rows of Q8_K blocks. The answer: 1 where packing and unpacking gave the
// same blocks, 0 where not, -1 for a path that this CPU does not run, as a 32-bit number; then n rows of floats.
// Without GRID it prints the paths that this CPU runs.
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "dispatch.h"
#include "pack.h"
#include "team.h"

namespace {

constexpr size_t kQ8Bytes = 292;
int8_t rows_of_grid[2048][8];
const float * first_value;   // activations are a place only: their Q8_K blocks are given
const uint8_t * q8_blocks;

// What ggml's dequantization makes of a block with d = 1, positive deltas and scales of 0.
void to_float(const void * from, float * values, int64_t) {
    const uint8_t * block = static_cast<const uint8_t *>(from);
    for (int place = 0; place < 32; ++place) {
        const int row = block[place] | (block[32 + place / 2] >> 4 * (place % 2) & 7) << 8;
        for (int i = 0; i < 8; ++i) values[8 * place + i] = static_cast<float>(rows_of_grid[row][i]) + 0.125f;
    }
}

void from_float(const float * values, void * block, int64_t) {
    std::memcpy(block, q8_blocks + (values - first_value) / luq::kColumns * kQ8Bytes, kQ8Bytes);
}

template <class T>
bool read(std::vector<T> & into) {
    return std::fread(into.data(), sizeof(T), into.size(), stdin) == into.size();
}

const luq::Path * find(const char * name) {
    for (const luq::Path * path : luq::runnable_paths()) {
        if (std::strcmp(path->name, name) == 0) return path;
    }
    return nullptr;
}

// A heap of exactly the size, so that a sanitizer sees what is read beyond it; aligned as ggml's buffers are.
struct Packed {
    std::vector<uint8_t> bytes;
    uint8_t * data;

    explicit Packed(size_t size) : bytes(size + 63) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(bytes.data());
        data = bytes.data() + ((at + 63) / 64 * 64 - at);
    }
};

int32_t pack(const luq::Grid & grid, luq::Type type, luq::Layout layout, const std::vector<uint8_t> & blocks,
             int n_superblocks, uint8_t * out) {
    const size_t row_bytes = n_superblocks * luq::block_bytes(type);
    std::vector<uint8_t> again(blocks.size());
    for (size_t at = 0; at < blocks.size(); at += luq::kRows * row_bytes) {
        luq::pack_rowgroup(grid, type, layout, blocks.data() + at, row_bytes, n_superblocks, out);
        luq::unpack_rowgroup(grid, type, layout, out, n_superblocks, again.data() + at, row_bytes);
        out += n_superblocks * luq::superblock_bytes(layout);
    }
    return again == blocks;
}

bool answer_case(const luq::Grid & grid) {
    std::vector<char> name(16);
    std::vector<int32_t> head(6);
    if (!read(name) || !read(head)) return false;
    const int n_rows = head[0], n_columns = head[1], n = head[2], n_superblocks = n_columns / luq::kColumns;
    const luq::Type type = head[5] ? luq::Type::iq1_s : luq::Type::iq1_m;
    std::vector<uint8_t> blocks(n_rows * n_superblocks * luq::block_bytes(type));
    std::vector<uint8_t> q8(static_cast<size_t>(n) * n_superblocks * kQ8Bytes);
    if (!read(blocks) || !read(q8)) return false;
    std::vector<float> values(static_cast<size_t>(n) * n_columns), out(static_cast<size_t>(n) * n_rows);
    first_value = values.data();
    q8_blocks = q8.data();

    int32_t status = -1;
    if (const luq::Path * found = find(name.data())) {
        luq::Path path = *found;
        path.n_matrix = head[4] == 1 ? n + 1 : head[4] == 2 ? 1 : path.n_matrix;
        Packed packed(n_rows / luq::kRows * n_superblocks * luq::superblock_bytes(path.layout));
        status = pack(grid, type, path.layout, blocks, n_superblocks, packed.data);
        std::vector<char> workspace(luq::workspace_bytes(n, n_columns));
        const char * activations = reinterpret_cast<const char *>(values.data());
        luq::Product product = {packed.data, n_rows, n_columns, activations, {n, 1, 1}, {}, out.data()};
        product.nb[0] = sizeof(float) * n_columns;
        on_team(head[3], [&](const luq::Team & team) {
            luq::multiply(path, from_float, product, team, workspace.data());
        });
    }
    std::fwrite(&status, sizeof status, 1, stdout);
    std::fwrite(out.data(), sizeof(float), out.size(), stdout);
    return std::fflush(stdout) == 0;
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc < 2) {
        for (const luq::Path * path : luq::runnable_paths()) std::printf("%s\n", path->name);
        return 0;
    }
    std::FILE * file = std::fopen(argv[1], "rb");
    const bool whole = file && std::fread(rows_of_grid, sizeof rows_of_grid, 1, file) == 1;
    if (file) std::fclose(file);
    luq::Grid grid;
    if (!whole || !grid.learn(to_float)) return std::fprintf(stderr, "%s is no grid\n", argv[1]), 1;
    while (answer_case(grid)) {
    }
    return 0;
}
