// AVX2, with FMA and F16C, which all CPUs with AVX2 have.
#include "paths.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "vector256.h"

namespace luq {
namespace {

struct Ops {
    static constexpr bool kShiftTop = true;

    // Digits are at most 2 * 16 here: 4 * 32 * 128 * 2 is the most that 16 bits hold, and on the negative side only,
    // where they hold 32768.
    static __m256i dot(const __m256i * x, const int8_t * a) {
        __m256i sum = _mm256_maddubs_epi16(x[0], broadcast256(a));
        for (int i = 1; i < 4; ++i) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(x[i], broadcast256(a + 4 * i)));
        return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    }
    static __m256i pairs(__m256i sum, __m256i x, __m256i y) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, y)); }
};

// Bytes 8c+2b-9, signed, times activations plus 128, unsigned: at most 9 * 255 * 8, nothing saturates. 128 times the
// sum of weights is taken off once a superblock.
struct Tile {
    static constexpr int kColumns = 3;

    alignas(64) int8_t bytes[kQuads][kVector];
    __m256i odd[kGroups][2];  // 2s+1 in both halves of a dword
    __m256i excess[2];        // what 128 in all columns sums up to
    __m256 d[2];

    void unpack(const uint8_t * superblock) {
        for (int half = 0; half < 2; ++half) {
            const Scales256 scales(superblock, half);
            d[half] = scales.d();
            excess[half] = _mm256_setzero_si256();
#pragma GCC unroll 16
            for (int group = 0; group < kGroups; ++group) {
                const __m256i s = scales.odd(group);
                odd[group][half] = _mm256_or_si256(s, _mm256_slli_epi32(s, 16));
                const __m256i sum = unpack_group(superblock, half, group, scales.delta);
                excess[half] = _mm256_add_epi32(excess[half], _mm256_madd_epi16(sum, odd[group][half]));
            }
        }
    }

    __m256i unpack_group(const uint8_t * superblock, int half, int group, __m256i delta) {
        const __m256i spread = _mm256_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0, 0x0c0c0c0c, 0x08080808,
                                                0x04040404, 0);
        const int t = group % 4;
        __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m256i x = load256(superblock + (4 * (group / 4) + i) * kVector + 32 * half);
            const __m256i at = t == 0   ? _mm256_slli_epi16(x, 3)
                               : t == 1 ? _mm256_slli_epi16(x, 1)
                                        : _mm256_srli_epi16(x, 2 * t - 3);
            const __m256i c8 = _mm256_and_si256(at, _mm256_set1_epi8(24));
            const __m256i b = _mm256_and_si256(_mm256_srli_epi32(delta, group + 16 * (i / 2)), _mm256_set1_epi32(1));
            const __m256i b2 = _mm256_shuffle_epi8(_mm256_add_epi32(b, b), spread);
            const __m256i w = _mm256_sub_epi8(_mm256_add_epi8(c8, b2), _mm256_set1_epi8(9));
            _mm256_store_si256(reinterpret_cast<__m256i *>(bytes[4 * group + i] + 32 * half), w);
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_set1_epi8(static_cast<char>(128)), w));
        }
        return sum;
    }

    template <int C>
    void multiply(const Activations * a, float (*sums)[kRows]) const {
        __m256i sum[2][C];
        for (int c = 0; c < C; ++c) sum[0][c] = sum[1][c] = _mm256_setzero_si256();
        for (int group = 0; group < kGroups; ++group) {
            __m256i dot[2][C];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const __m256i w0 = load256(bytes[4 * group + i]), w1 = load256(bytes[4 * group + i] + 32);
#pragma GCC unroll 3
                for (int c = 0; c < C; ++c) {
                    const __m256i signs = _mm256_set1_epi8(static_cast<char>(128));
                    const __m256i activations = _mm256_xor_si256(broadcast256(a[c].q + 16 * group + 4 * i), signs);
                    const __m256i p0 = _mm256_maddubs_epi16(activations, w0);
                    const __m256i p1 = _mm256_maddubs_epi16(activations, w1);
                    dot[0][c] = i ? _mm256_add_epi16(dot[0][c], p0) : p0;
                    dot[1][c] = i ? _mm256_add_epi16(dot[1][c], p1) : p1;
                }
            }
#pragma GCC unroll 3
            for (int c = 0; c < C; ++c) {
                for (int half = 0; half < 2; ++half) {
                    sum[half][c] = Ops::pairs(sum[half][c], dot[half][c], odd[group][half]);
                }
            }
        }
#pragma GCC unroll 3
        for (int c = 0; c < C; ++c) {
            for (int half = 0; half < 2; ++half) {
                const __m256 exact = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum[half][c], excess[half]));
                const __m256 scale = _mm256_mul_ps(d[half], _mm256_set1_ps(a[c].scale));
                float * out = sums[c] + 8 * half;
                _mm256_storeu_ps(out, _mm256_fmadd_ps(scale, exact, _mm256_loadu_ps(out)));
            }
        }
    }
};

constexpr Path kPath = {"avx2", Layout::t2, multiply_vector256<Ops>, multiply_matrix256<Tile>, 3};

}  // namespace

const Path * avx2() { return &kPath; }

}  // namespace luq

#else

const luq::Path * luq::avx2() { return nullptr; }

#endif
