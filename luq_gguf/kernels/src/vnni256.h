// 256-bit kernels with VNNI, included twice: AVX-VNNI and AVX-512 VL encode the same two instructions differently.
#pragma once

#include "vector256.h"

namespace luq {
namespace {

template <class Vnni>
struct VnniOps {
    static constexpr bool kShiftTop = false;

    static __m256i dot(const __m256i * x, const int8_t * a) {
        __m256i sum = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) sum = Vnni::bytes(sum, x[i], broadcast256(a + 4 * i));
        return sum;
    }
    static __m256i pairs(__m256i sum, __m256i x, __m256i y) { return Vnni::pairs(sum, x, y); }
};

template <class Vnni>
struct VnniTile {
    static constexpr int kColumns = 6;

    // (2s+1)(4c+b) <= 135 fits a byte.
    alignas(64) uint8_t bytes[kQuads][kVector];
    __m256i odd[kGroups / 2][2];  // 2s+1 of two groups in each dword
    __m256 d[2];

    void unpack(const uint8_t * superblock) {
        for (int half = 0; half < 2; ++half) {
            const Scales256 scales(superblock, half);
            d[half] = scales.d();
#pragma GCC unroll 16
            for (int group = 0; group < kGroups; ++group) {
                const __m256i s = scales.odd(group);
                __m256i & both = odd[group / 2][half];
                both = group % 2 ? _mm256_or_si256(both, _mm256_slli_epi32(s, 16)) : s;
                unpack_group(superblock, half, group, scales.delta, _mm256_or_si256(s, _mm256_slli_epi32(s, 16)));
            }
        }
    }

    void unpack_group(const uint8_t * superblock, int half, int group, __m256i delta, __m256i times) {
        const __m256i spread = _mm256_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0, 0x0c0c0c0c, 0x08080808,
                                                0x04040404, 0);
        const int t = group % 4;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m256i x = load256(superblock + (4 * (group / 4) + i) * kVector + 32 * half);
            const __m256i at = t == 0 ? _mm256_slli_epi16(x, 2) : t == 1 ? x : _mm256_srli_epi16(x, 2 * t - 2);
            const __m256i c4 = _mm256_and_si256(at, _mm256_set1_epi8(12));
            const __m256i b = _mm256_and_si256(_mm256_srli_epi32(delta, group + 16 * (i / 2)), _mm256_set1_epi32(1));
            const __m256i sum = _mm256_add_epi8(c4, _mm256_shuffle_epi8(b, spread));
            // A 16-bit product: nothing crosses bytes.
            _mm256_store_si256(reinterpret_cast<__m256i *>(bytes[4 * group + i] + 32 * half),
                               _mm256_mullo_epi16(sum, times));
        }
    }

    template <int C>
    void multiply(const Activations * a, float (*sums)[kRows]) const {
        __m256i dot[2][C];
        for (int c = 0; c < C; ++c) dot[0][c] = dot[1][c] = _mm256_setzero_si256();
        for (int quad = 0; quad < kQuads; ++quad) {
            const __m256i w0 = load256(bytes[quad]), w1 = load256(bytes[quad] + 32);
#pragma GCC unroll 6
            for (int c = 0; c < C; ++c) {
                const __m256i activations = broadcast256(a[c].q + 4 * quad);
                dot[0][c] = Vnni::bytes(dot[0][c], w0, activations);
                dot[1][c] = Vnni::bytes(dot[1][c], w1, activations);
            }
        }
#pragma GCC unroll 6
        for (int c = 0; c < C; ++c) {
            for (int half = 0; half < 2; ++half) {
                __m256i sum = _mm256_slli_epi32(dot[half][c], 1);
                for (int pair = 0; pair < kGroups / 2; ++pair) {
                    sum = Vnni::pairs(sum, odd[pair][half], broadcast256(a[c].offset16 + 2 * pair));
                }
                const __m256 scale = _mm256_mul_ps(d[half], _mm256_set1_ps(a[c].scale));
                float * out = sums[c] + 8 * half;
                _mm256_storeu_ps(out, _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum), _mm256_loadu_ps(out)));
            }
        }
    }
};

}  // namespace
}  // namespace luq
