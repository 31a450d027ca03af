// The repacked form of IQ1_M and IQ1_S, and what every path computes on it.
//
// A weight of IQ1_M is d * (2s+1) * (g + delta): g in {-1,0,1}; delta = +-1/8 for 8 weights; s of 3 bits for 16, a
// "group"; d, a half, for 256. IQ1_S is the same with one delta and one s for 32 weights. With c = g+1 and b = 1 where delta is positive it is a small integer times a
// power of two:
//
//     weight = (d/8) * (2s+1) * (8c + 2b - 9)
//
// 16 rows x 256 columns make a superblock: vectors of 64 bytes that hold the c of all weights, then 48 dwords. The 16
// dword lanes of a vector are the 16 rows, and a lane's 4 bytes are 4 neighbouring columns, a "quad": activations are
// broadcasts, and no sum runs across lanes. Superblocks of the same rows follow one another.
//
//   T2  16 vectors, 2 bits a weight. Vector 4g+i holds in bits 2t and 2t+1 of its bytes quad i of group 4g+t.
//   T5  13 vectors, 5 weights a byte. Slot 5v+t, the t-th most significant ternary digit of vector v, is quad
//       slot%4 of group slot/4. A byte is ceil(n*256/243) of its ternary number n, so that multiplying it by 3 carries
//       the next digit into bit 8.
// Functions in headers are static: a file that is compiled for a newer CPU must not lend its copy to the others.
#pragma once

#include <cstddef>
#include <cstdint>

namespace luq {

constexpr int kRows = 16;           // rows of a superblock
constexpr int kColumns = 256;       // columns of a superblock
constexpr int kGroups = 16;         // of 16 columns that share a scale
constexpr int kQuads = 64;          // of 4 columns
constexpr int kVector = 64;         // bytes: 16 rows x 4 columns
constexpr int kMetaBytes = 3 * kRows * 4;

// What follows the vectors of a superblock, a dword a row each.
struct Meta {
    uint32_t delta[kRows];  // bit j: b of columns 16j..16j+7; bit 16+j: of columns 16j+8..16j+15
    uint32_t low[kRows];    // bits 3j..3j+2: s of group j < 10; bits 30, 31: the lower two of group 15
    uint32_t high[kRows];   // bits 3j..3j+2: s of group 10+j; bit 15: the third bit of group 15; upper half: d
};
static_assert(sizeof(Meta) == kMetaBytes, "three dwords a row");

enum class Layout { t2, t5 };

static constexpr int vectors_of(Layout layout) { return layout == Layout::t5 ? 13 : 16; }
static constexpr size_t superblock_bytes(Layout layout) { return vectors_of(layout) * kVector + kMetaBytes; }

static inline const Meta & meta_of(const uint8_t * superblock, Layout layout) {
    return *reinterpret_cast<const Meta *>(superblock + vectors_of(layout) * kVector);
}
static inline Meta & meta_of(uint8_t * superblock, Layout layout) {
    return *reinterpret_cast<Meta *>(superblock + vectors_of(layout) * kVector);
}

static inline int scale_bits(const Meta & meta, int row, int group) {
    if (group < 10) return meta.low[row] >> (3 * group) & 7;
    if (group < 15) return meta.high[row] >> (3 * (group - 10)) & 7;
    return (meta.low[row] >> 30) | (meta.high[row] >> 15 & 1) << 2;
}
static inline int delta_bit(const Meta & meta, int row, int group, int half) {
    return meta.delta[row] >> (group + 16 * half) & 1;
}
static inline uint16_t half_scale(const Meta & meta, int row) { return static_cast<uint16_t>(meta.high[row] >> 16); }

// 256 activations as 8-bit integers, with the sums that delta and the offset -9 are multiplied with. Blocks of the same
// columns of all activation rows follow one another, so that a tile finds them at constant distances.
struct alignas(64) Activations {
    int8_t q[kColumns];
    int16_t sums[2 * kGroups];  // twice the sums of 8 columns: what b is multiplied with
    int32_t offset[kGroups];    // -9 times the sum of a group
    int16_t offset16[kGroups];  // the same
    float scale;                // one eighth of the block's: the 8 of weights in eighths
};
static_assert(sizeof(Activations) == 448, "seven cache lines");

// `out[column * stride + row]` for 16 * n_groups rows and n columns; n_superblocks along the columns of the weights.
struct Task {
    const uint8_t * weights;
    const Activations * activations;  // [superblock][column]
    float * out;
    size_t stride;
    int n_superblocks;
    int n_rowgroups;
    int n;
};

using Kernel = void (*)(const Task &);

// A way to compute: sums are of integers, and the steps in floating point are the same in all, so results are equal to
// the bit.
struct Path {
    const char * name;
    Layout layout;
    Kernel vector;   // for one column
    Kernel matrix;   // for any number
    int n_matrix;    // columns from which `matrix` is faster than `vector` for each
};

}  // namespace luq
