// Plain C++ for any CPU and both layouts: what the others are tested against.
#include <cmath>

#include "half.h"
#include "pack.h"
#include "paths.h"

namespace luq {
namespace {

int32_t row_sum(const BlockParts & row, const Activations & activations) {
    int32_t sum = 0;
    for (int group = 0; group < kGroups; ++group) {
        int32_t dot = 0;
        for (int i = 16 * group; i < 16 * group + 16; ++i) {
            dot += (8 * row.c[i] + 2 * row.b[i / 8] - 9) * activations.q[i];
        }
        sum += (2 * row.s[group] + 1) * dot;
    }
    return sum;
}

template <Layout layout>
void multiply(const Task & task) {
    const uint8_t * superblock = task.weights;
    Parts parts;
    for (int rowgroup = 0; rowgroup < task.n_rowgroups; ++rowgroup) {
        float * out = task.out + rowgroup * kRows;
        for (int i = 0; i < task.n_superblocks; ++i, superblock += superblock_bytes(layout)) {
            read_superblock(layout, superblock, parts);
            for (int column = 0; column < task.n; ++column) {
                const Activations & a = task.activations[static_cast<size_t>(i) * task.n + column];
                for (int row = 0; row < kRows; ++row) {
                    float & sum = out[column * task.stride + row];
                    const float scale = half_to_float(parts[row].d) * a.scale;
                    sum = std::fma(scale, static_cast<float>(row_sum(parts[row], a)), i ? sum : 0.0f);
                }
            }
        }
    }
}

// It has no way of its own for one column: it never takes fewer than one.
constexpr Path kT2 = {"portable", Layout::t2, nullptr, multiply<Layout::t2>, 1};
constexpr Path kT5 = {"portable-t5", Layout::t5, nullptr, multiply<Layout::t5>, 1};

}  // namespace

const Path * portable_t2() { return &kT2; }
const Path * portable_t5() { return &kT5; }

}  // namespace luq
