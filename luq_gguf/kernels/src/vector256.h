// The product with one column in registers of 32 bytes, on the T2 layout: two registers of 8 rows. Included by files
// that are compiled for different instructions and bring them as `Ops`:
//
//     dot(x0..x3, a)      sums of products of 4 registers of unsigned bytes with 16 activations, each quad in 32 bits
//     pairs(sum, x, y)    sum + products of 16-bit pairs
//     kShiftTop           whether 4 * 128 * 127 * 2 is too much for `dot`
#pragma once

#include <immintrin.h>

#include <cstring>

#include "layout.h"

namespace luq {
namespace {

inline __m256i load256(const void * from) { return _mm256_loadu_si256(static_cast<const __m256i *>(from)); }
inline __m256i broadcast256(const void * from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return _mm256_set1_epi32(word);
}

constexpr size_t kStep256 = superblock_bytes(Layout::t2);

inline void prefetch256(const uint8_t * superblock, size_t ahead) {
    for (size_t line = 0; line < kStep256; line += 64) {
        _mm_prefetch(reinterpret_cast<const char *>(superblock + ahead + line), _MM_HINT_T0);
    }
}

// Delta, scales and d of 8 rows.
struct Scales256 {
    __m256i delta, low, high;

    Scales256(const uint8_t * superblock, int half) {
        const Meta & meta = meta_of(superblock, Layout::t2);
        delta = load256(meta.delta + 8 * half);
        low = load256(meta.low + 8 * half);
        high = load256(meta.high + 8 * half);
    }
    // 2s+1 of a group in dwords.
    __m256i odd(int group) const {
        const __m256i one = _mm256_set1_epi32(1);
        if (group == 15) {
            const __m256i two = _mm256_and_si256(_mm256_srli_epi32(low, 29), _mm256_set1_epi32(6));
            const __m256i third = _mm256_and_si256(_mm256_srli_epi32(high, 12), _mm256_set1_epi32(8));
            return _mm256_or_si256(_mm256_or_si256(two, third), one);
        }
        const __m256i word = group < 10 ? low : high;
        const int shift = 3 * (group < 10 ? group : group - 10);
        const __m256i twice = shift ? _mm256_srli_epi32(word, shift - 1) : _mm256_slli_epi32(word, 1);
        return _mm256_or_si256(_mm256_and_si256(twice, _mm256_set1_epi32(14)), one);
    }
    // b of the group's two halves, as 16-bit pairs.
    __m256i bits(int group) const {
        return _mm256_and_si256(_mm256_srli_epi32(delta, group), _mm256_set1_epi32(0x00010001));
    }
    __m256 d() const {
        const __m256i wide = _mm256_srli_epi32(high, 16);
        const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        return _mm256_cvtph_ps(halves);
    }
};

// Eight times the sum of c * activation of group 4g+t. The digit stays where it is in its byte, as a power of 4.
template <class Ops>
inline __m256i group_dot(const __m256i * x, int t, const int8_t * a) {
    __m256i digits[4];
    const bool shifted = t == 3 && Ops::kShiftTop;
    const __m256i mask = _mm256_set1_epi8(static_cast<char>(shifted ? 12 : 3 << 2 * t));
    for (int i = 0; i < 4; ++i) digits[i] = _mm256_and_si256(shifted ? _mm256_srli_epi16(x[i], 4) : x[i], mask);
    const __m256i sum = Ops::dot(digits, a);
    if (t == 0) return _mm256_slli_epi32(sum, 3);
    if (t == 1 || shifted) return _mm256_slli_epi32(sum, 1);
    return t == 2 ? _mm256_srai_epi32(sum, 1) : _mm256_srai_epi32(sum, 3);
}

template <class Ops>
inline __m256i superblock_sum256(const uint8_t * superblock, const Scales256 & scales, const Activations & a,
                                 int half) {
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
        __m256i x[4];
        for (int i = 0; i < 4; ++i) x[i] = load256(superblock + (4 * g + i) * kVector + 32 * half);
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
            const int group = 4 * g + t;
            const __m256i dot = group_dot<Ops>(x, t, a.q + 16 * group);
            const __m256i offset = _mm256_set1_epi32(a.offset[group]);
            const __m256i rest = Ops::pairs(offset, scales.bits(group), broadcast256(a.sums + 2 * group));
            // Fits 16 bits: the lower half times 2s+1, the upper half times 0.
            sum = Ops::pairs(sum, _mm256_add_epi32(dot, rest), scales.odd(group));
        }
    }
    return sum;
}

template <class Ops>
void multiply_vector256(const Task & task) {
    const uint8_t * superblock = task.weights;
    for (int rowgroup = 0; rowgroup < task.n_rowgroups; ++rowgroup) {
        __m256 out[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int i = 0; i < task.n_superblocks; ++i, superblock += kStep256) {
            prefetch256(superblock, 8192);
            const Activations & a = task.activations[static_cast<size_t>(i) * task.n];
            for (int half = 0; half < 2; ++half) {
                const Scales256 scales(superblock, half);
                const __m256 sum = _mm256_cvtepi32_ps(superblock_sum256<Ops>(superblock, scales, a, half));
                out[half] = _mm256_fmadd_ps(_mm256_mul_ps(scales.d(), _mm256_set1_ps(a.scale)), sum, out[half]);
            }
        }
        for (int half = 0; half < 2; ++half) _mm256_storeu_ps(task.out + rowgroup * kRows + 8 * half, out[half]);
    }
}

// The product with many columns: `Tile::unpack` takes a superblock apart once, `Tile::multiply<C>` adds the products
// with C <= Tile::kColumns blocks of activations to the sums of its 16 rows.
template <class Tile, int C>
void tiles256(const Tile & tile, const Activations * a, float (*sums)[kRows], int n) {
    if constexpr (C > 0) {
        if (n >= C) tile.template multiply<C>(a, sums);
        else tiles256<Tile, C - 1>(tile, a, sums, n);
    }
}

template <class Tile>
void multiply_matrix256(const Task & task) {
    constexpr int kColumnBlock = 128;
    const size_t row_step = task.n_superblocks * kStep256;
    for (int column = 0; column < task.n; column += kColumnBlock) {
        const int n = task.n - column < kColumnBlock ? task.n - column : kColumnBlock;
        for (int rowgroup = 0; rowgroup < task.n_rowgroups; ++rowgroup) {
            float sums[kColumnBlock][kRows] = {};
            Tile tile;
            for (int i = 0; i < task.n_superblocks; ++i) {
                const uint8_t * superblock = task.weights + rowgroup * row_step + i * kStep256;
                prefetch256(superblock, 3 * kStep256);
                tile.unpack(superblock);
                const Activations * a = task.activations + static_cast<size_t>(i) * task.n + column;
                for (int c = 0, step; c < n; c += step) {
                    const int n_tiles = (n - c + Tile::kColumns - 1) / Tile::kColumns;
                    step = (n - c + n_tiles - 1) / n_tiles;  // tiles of nearly equal width
                    tiles256<Tile, Tile::kColumns>(tile, a + c, sums + c, step);
                }
            }
            for (int c = 0; c < n; ++c) {
                std::memcpy(task.out + (column + c) * task.stride + rowgroup * kRows, sums[c], sizeof sums[c]);
            }
        }
    }
}

}  // namespace
}  // namespace luq
