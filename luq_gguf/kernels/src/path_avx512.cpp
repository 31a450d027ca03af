// AVX-512 with VNNI on the T5 layout. 16 rows fill a register.
#include "paths.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

#include <immintrin.h>

#include <cstring>

namespace luq {
namespace {

constexpr Layout kLayout = Layout::t5;
constexpr size_t kStep = superblock_bytes(kLayout);
constexpr size_t kAhead = 8192;  // bytes that are fetched ahead; memory's own prefetchers stop at pages
constexpr int kColumnBlock = 128;

inline __m512i load(const void * from) { return _mm512_loadu_si512(from); }
inline __m512i broadcast(const void * from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return _mm512_set1_epi32(word);
}
inline __m512i times3(__m512i x) { return _mm512_add_epi8(_mm512_add_epi8(x, x), x); }

inline void prefetch(const uint8_t * superblock, size_t ahead) {
    for (size_t line = 0; line < kStep; line += 64) {
        _mm_prefetch(reinterpret_cast<const char *>(superblock + ahead + line), _MM_HINT_T0);
    }
}

struct Scales {
    __m512i delta, low, high;

    explicit Scales(const uint8_t * superblock) {
        const Meta & meta = meta_of(superblock, kLayout);
        delta = load(meta.delta);
        low = load(meta.low);
        high = load(meta.high);
    }
    // 2s+1 of a group in dwords.
    __m512i odd(int group) const {
        const __m512i one = _mm512_set1_epi32(1), mask = _mm512_set1_epi32(14);
        if (group == 15) {
            const __m512i two = _mm512_ternarylogic_epi32(_mm512_srli_epi32(low, 29), _mm512_set1_epi32(6), one, 0xEA);
            return _mm512_ternarylogic_epi32(_mm512_srli_epi32(high, 12), _mm512_set1_epi32(8), two, 0xEA);
        }
        const __m512i word = group < 10 ? low : high;
        const int shift = 3 * (group < 10 ? group : group - 10) - 1;
        const __m512i at = shift < 0 ? _mm512_slli_epi32(word, 1) : _mm512_srli_epi32(word, shift < 0 ? 0 : shift);
        return _mm512_ternarylogic_epi32(at, mask, one, 0xEA);  // at & mask | one
    }
    __m512 d() const { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(high, 16))); }
};

// The integer sum of a superblock's 16 rows with one block of activations. Digits are not taken out of the bytes: with
// r = 3q mod 256 the leading digit of q is (3q - r) / 256, so two dot products on raw bytes leave it for the end.
inline __m512i superblock_sum(const uint8_t * superblock, const Scales & scales, const Activations & a) {
    __m512i sum = _mm512_setzero_si512(), first = sum, second = sum, q = sum;
#pragma GCC unroll 64
    for (int slot = 0; slot < kQuads; ++slot) {
        if (slot % 5 == 0) q = load(superblock + slot / 5 * kVector);
        const __m512i activations = broadcast(a.q + 4 * slot);
        first = _mm512_dpbusd_epi32(first, q, activations);
        q = times3(q);
        second = _mm512_dpbusd_epi32(second, q, activations);
        if (slot % 4 != 3) continue;
        const int group = slot / 4;
        const __m512i bits = _mm512_and_si512(_mm512_srli_epi32(scales.delta, group), _mm512_set1_epi32(0x00010001));
        const __m512i offset = _mm512_set1_epi32(a.offset[group]);
        const __m512i rest = _mm512_dpwssd_epi32(offset, bits, broadcast(a.sums + 2 * group));
        const __m512i first3 = _mm512_add_epi32(_mm512_add_epi32(first, first), first);
        const __m512i dot = _mm512_srai_epi32(_mm512_sub_epi32(first3, second), 5);
        // Fits 16 bits: the lower half times 2s+1, the upper half times 0.
        sum = _mm512_dpwssd_epi32(sum, _mm512_add_epi32(dot, rest), scales.odd(group));
        first = second = _mm512_setzero_si512();
    }
    return sum;
}

void multiply_vector(const Task & task) {
    const uint8_t * superblock = task.weights;
    for (int rowgroup = 0; rowgroup < task.n_rowgroups; ++rowgroup) {
        __m512 out = _mm512_setzero_ps();
        for (int i = 0; i < task.n_superblocks; ++i, superblock += kStep) {
            prefetch(superblock, kAhead);
            const Activations & a = task.activations[static_cast<size_t>(i) * task.n];
            const Scales scales(superblock);
            const __m512 sum = _mm512_cvtepi32_ps(superblock_sum(superblock, scales, a));
            out = _mm512_fmadd_ps(_mm512_mul_ps(scales.d(), _mm512_set1_ps(a.scale)), sum, out);
        }
        _mm512_storeu_ps(task.out + rowgroup * kRows, out);
    }
}

// A superblock taken apart for many columns: (2s+1)(4c+b) <= 135 fits a byte.
struct Unpacked {
    alignas(64) uint8_t bytes[kQuads][kVector];
    __m512i odd[kGroups / 2];  // 2s+1 of two groups in each dword
    __m512 d;
};

void unpack(const uint8_t * superblock, Unpacked & out) {
    const Scales scales(superblock);
    const __m512i spread = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
    __m512i q = _mm512_setzero_si512(), even = q;
#pragma GCC unroll 16
    for (int group = 0; group < kGroups; ++group) {
        const __m512i odd = scales.odd(group);
        const __m512i times1 = _mm512_shuffle_epi8(odd, spread);
        const __m512i times4 = _mm512_slli_epi32(times1, 2);  // at most 60: nothing crosses bytes
        if (group % 2) out.odd[group / 2] = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
        even = odd;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const int slot = 4 * group + i;
            if (slot % 5 == 0) q = load(superblock + slot / 5 * kVector);
            const uint32_t bit = 1u << (group + 16 * (i / 2));
            const __mmask16 delta = _mm512_test_epi32_mask(scales.delta, _mm512_set1_epi32(static_cast<int>(bit)));
            __m512i byte = _mm512_maskz_mov_epi32(delta, times1);
            const __mmask64 not0 = _mm512_cmpge_epu8_mask(q, _mm512_set1_epi8(86));  // 3q >= 256
            const __mmask64 two = _mm512_cmpge_epu8_mask(q, _mm512_set1_epi8(static_cast<char>(171)));  // 3q >= 512
            byte = _mm512_mask_add_epi8(byte, not0, byte, times4);
            byte = _mm512_mask_add_epi8(byte, two, byte, times4);
            _mm512_store_si512(out.bytes[slot], byte);
            q = times3(q);
        }
    }
    out.d = scales.d();
}

using Sums = float[kColumnBlock][2][kRows];

// G rowgroups times C columns.
template <int G, int C>
void tile(const Unpacked * weights, const Activations * a, float (*sums)[2][kRows]) {
    __m512i dot[G][C];
    for (int g = 0; g < G; ++g) {
        for (int c = 0; c < C; ++c) dot[g][c] = _mm512_setzero_si512();
    }
    for (int quad = 0; quad < kQuads; ++quad) {
        __m512i w[G];
        for (int g = 0; g < G; ++g) w[g] = _mm512_load_si512(weights[g].bytes[quad]);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
            const __m512i activations = broadcast(a[c].q + 4 * quad);
            for (int g = 0; g < G; ++g) dot[g][c] = _mm512_dpbusd_epi32(dot[g][c], w[g], activations);
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
        for (int g = 0; g < G; ++g) {
            __m512i sum = _mm512_slli_epi32(dot[g][c], 1);
            for (int pair = 0; pair < kGroups / 2; ++pair) {
                sum = _mm512_dpwssd_epi32(sum, weights[g].odd[pair], broadcast(a[c].offset16 + 2 * pair));
            }
            const __m512 scale = _mm512_mul_ps(weights[g].d, _mm512_set1_ps(a[c].scale));
            const __m512 out = _mm512_loadu_ps(sums[c][g]);
            _mm512_storeu_ps(sums[c][g], _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum), out));
        }
    }
}

template <int G>
void tiles(const Unpacked * weights, const Activations * a, float (*sums)[2][kRows], int n) {
    for (; n >= 8; n -= 8, a += 8, sums += 8) tile<G, 8>(weights, a, sums);
    switch (n) {
        case 7: return tile<G, 7>(weights, a, sums);
        case 6: return tile<G, 6>(weights, a, sums);
        case 5: return tile<G, 5>(weights, a, sums);
        case 4: return tile<G, 4>(weights, a, sums);
        case 3: return tile<G, 3>(weights, a, sums);
        case 2: return tile<G, 2>(weights, a, sums);
        case 1: return tile<G, 1>(weights, a, sums);
        default: return;
    }
}

template <int G>
void rowgroups(const Task & task, const uint8_t * weights, int rowgroup, int column, int n) {
    Sums sums = {};
    Unpacked unpacked[G];
    const size_t row_step = task.n_superblocks * kStep;
    for (int i = 0; i < task.n_superblocks; ++i) {
        for (int g = 0; g < G; ++g) {
            const uint8_t * superblock = weights + g * row_step + i * kStep;
            prefetch(superblock, 3 * kStep);
            unpack(superblock, unpacked[g]);
        }
        tiles<G>(unpacked, task.activations + static_cast<size_t>(i) * task.n + column, sums, n);
    }
    for (int c = 0; c < n; ++c) {
        float * out = task.out + (column + c) * task.stride + rowgroup * kRows;
        for (int g = 0; g < G; ++g) _mm512_storeu_ps(out + g * kRows, _mm512_loadu_ps(sums[c][g]));
    }
}

void multiply_matrix(const Task & task) {
    const size_t row_step = task.n_superblocks * kStep;
    for (int column = 0; column < task.n; column += kColumnBlock) {
        const int n = task.n - column < kColumnBlock ? task.n - column : kColumnBlock;
        int rowgroup = 0;
        for (; rowgroup + 1 < task.n_rowgroups; rowgroup += 2) {
            rowgroups<2>(task, task.weights + rowgroup * row_step, rowgroup, column, n);
        }
        if (rowgroup < task.n_rowgroups) {
            rowgroups<1>(task, task.weights + rowgroup * row_step, rowgroup, column, n);
        }
    }
}

constexpr Path kPath = {"avx512", kLayout, multiply_vector, multiply_matrix, 3};

}  // namespace

const Path * avx512() { return &kPath; }

}  // namespace luq

#else

const luq::Path * luq::avx512() { return nullptr; }

#endif
