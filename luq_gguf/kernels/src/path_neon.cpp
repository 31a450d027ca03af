// ARM NEON with dot products on the T2 layout: four registers of 4 rows.
#include "paths.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)

#include <arm_neon.h>

#include <cstring>

#include "half.h"

namespace luq {
namespace {

constexpr size_t kStep = superblock_bytes(Layout::t2);
constexpr int kFours = kRows / 4;

inline void prefetch(const uint8_t * superblock, size_t ahead) {
    for (size_t line = 0; line < kStep; line += 64) __builtin_prefetch(superblock + ahead + line);
}

// Bits from `place` on, of 4 rows.
inline int32x4_t field(const uint32_t * words, int place, uint32_t mask) {
    const uint32x4_t shifted = vshlq_u32(vld1q_u32(words), vdupq_n_s32(-place));
    return vreinterpretq_s32_u32(vandq_u32(shifted, vdupq_n_u32(mask)));
}

// 2s+1 of a group in 4 rows.
inline int32x4_t odd(const Meta & meta, int four, int group) {
    const uint32_t *low = meta.low + 4 * four, *high = meta.high + 4 * four;
    int32x4_t s;
    if (group == 15) {
        s = vaddq_s32(field(low, 30, 3), vshlq_n_s32(field(high, 15, 1), 2));
    } else {
        s = group < 10 ? field(low, 3 * group, 7) : field(high, 3 * (group - 10), 7);
    }
    return vaddq_s32(vaddq_s32(s, s), vdupq_n_s32(1));
}

inline float32x4_t scales(const Meta & meta, int four, float scale) {
    float d[4];
    for (int row = 0; row < 4; ++row) d[row] = half_to_float(half_scale(meta, 4 * four + row));
    return vmulq_f32(vld1q_f32(d), vdupq_n_f32(scale));
}

inline int32x4_t dot16(int32x4_t sum, int8x16_t w0, int8x16_t w1, int8x16_t w2, int8x16_t w3, int8x16_t a) {
    sum = vdotq_laneq_s32(sum, w0, a, 0);
    sum = vdotq_laneq_s32(sum, w1, a, 1);
    sum = vdotq_laneq_s32(sum, w2, a, 2);
    return vdotq_laneq_s32(sum, w3, a, 3);
}

inline int8x16_t digit(uint8x16_t x, int t) {
    const uint8x16_t at = t == 3 ? vshrq_n_u8(x, 6) : vandq_u8(x, vdupq_n_u8(static_cast<uint8_t>(3 << 2 * t)));
    return vreinterpretq_s8_u8(at);
}

// Eight times the sum of c * activation of group 4g+t in 4 rows. Below the top the digit stays where it is in its byte.
inline int32x4_t group_dot(const uint8x16_t * x, int t, int8x16_t a) {
    const int32x4_t sum = dot16(vdupq_n_s32(0), digit(x[0], t), digit(x[1], t), digit(x[2], t), digit(x[3], t), a);
    return t == 1 ? vshlq_n_s32(sum, 1) : t == 2 ? vshrq_n_s32(sum, 1) : vshlq_n_s32(sum, 3);
}

inline int32x4_t superblock_sum(const uint8_t * superblock, const Activations & a, int four) {
    const Meta & meta = meta_of(superblock, Layout::t2);
    const uint32_t * delta = meta.delta + 4 * four;
    int32x4_t sum = vdupq_n_s32(0);
    for (int g = 0; g < 4; ++g) {
        uint8x16_t x[4];
        for (int i = 0; i < 4; ++i) x[i] = vld1q_u8(superblock + (4 * g + i) * kVector + 16 * four);
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
            const int group = 4 * g + t;
            int32x4_t dot = vaddq_s32(group_dot(x, t, vld1q_s8(a.q + 16 * group)), vdupq_n_s32(a.offset[group]));
            dot = vmlaq_n_s32(dot, field(delta, group, 1), a.sums[2 * group]);
            dot = vmlaq_n_s32(dot, field(delta, group + 16, 1), a.sums[2 * group + 1]);
            sum = vmlaq_s32(sum, dot, odd(meta, four, group));
        }
    }
    return sum;
}

void multiply_vector(const Task & task) {
    const uint8_t * superblock = task.weights;
    for (int rowgroup = 0; rowgroup < task.n_rowgroups; ++rowgroup) {
        float32x4_t out[kFours] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
        for (int i = 0; i < task.n_superblocks; ++i, superblock += kStep) {
            prefetch(superblock, 8192);
            const Activations & a = task.activations[static_cast<size_t>(i) * task.n];
            for (int four = 0; four < kFours; ++four) {
                const float32x4_t sum = vcvtq_f32_s32(superblock_sum(superblock, a, four));
                out[four] = vfmaq_f32(out[four], scales(meta_of(superblock, Layout::t2), four, a.scale), sum);
            }
        }
        for (int four = 0; four < kFours; ++four) vst1q_f32(task.out + rowgroup * kRows + 4 * four, out[four]);
    }
}

// A superblock taken apart for many columns: bytes 8c+2b-9 and words 2s+1.
struct Unpacked {
    int8_t bytes[kQuads][kVector];
    int32_t odd[kGroups][kRows];
};

void unpack(const uint8_t * superblock, Unpacked & out) {
    const Meta & meta = meta_of(superblock, Layout::t2);
    for (int four = 0; four < kFours; ++four) {
        for (int group = 0; group < kGroups; ++group) {
            vst1q_s32(out.odd[group] + 4 * four, odd(meta, four, group));
            for (int i = 0; i < 4; ++i) {
                const uint8x16_t x = vld1q_u8(superblock + (4 * (group / 4) + i) * kVector + 16 * four);
                const uint8x16_t down = vshlq_u8(x, vdupq_n_s8(static_cast<int8_t>(-2 * (group % 4))));
                const int8x16_t c8 = vshlq_n_s8(vreinterpretq_s8_u8(vandq_u8(down, vdupq_n_u8(3))), 3);
                const int32x4_t b = field(meta.delta + 4 * four, group + 16 * (i / 2), 1);
                const int8x16_t b2 = vreinterpretq_s8_s32(vmulq_n_s32(b, 0x02020202));
                vst1q_s8(out.bytes[4 * group + i] + 16 * four, vsubq_s8(vaddq_s8(c8, b2), vdupq_n_s8(9)));
            }
        }
    }
}

// 4 rows times C columns.
template <int C>
void tile(const Unpacked & weights, const Meta & meta, int four, const Activations * a, float (*sums)[kRows]) {
    int32x4_t sum[C];
    for (int c = 0; c < C; ++c) sum[c] = vdupq_n_s32(0);
    for (int group = 0; group < kGroups; ++group) {
        int8x16_t w[4];
        for (int i = 0; i < 4; ++i) w[i] = vld1q_s8(weights.bytes[4 * group + i] + 16 * four);
        const int32x4_t times = vld1q_s32(weights.odd[group] + 4 * four);
        for (int c = 0; c < C; ++c) {
            const int8x16_t activations = vld1q_s8(a[c].q + 16 * group);
            sum[c] = vmlaq_s32(sum[c], dot16(vdupq_n_s32(0), w[0], w[1], w[2], w[3], activations), times);
        }
    }
    for (int c = 0; c < C; ++c) {
        float * out = sums[c] + 4 * four;
        vst1q_f32(out, vfmaq_f32(vld1q_f32(out), scales(meta, four, a[c].scale), vcvtq_f32_s32(sum[c])));
    }
}

void multiply_matrix(const Task & task) {
    constexpr int kColumnBlock = 128;
    const size_t row_step = task.n_superblocks * kStep;
    for (int column = 0; column < task.n; column += kColumnBlock) {
        const int n = task.n - column < kColumnBlock ? task.n - column : kColumnBlock;
        for (int rowgroup = 0; rowgroup < task.n_rowgroups; ++rowgroup) {
            float sums[kColumnBlock][kRows] = {};
            Unpacked unpacked;
            for (int i = 0; i < task.n_superblocks; ++i) {
                const uint8_t * superblock = task.weights + rowgroup * row_step + i * kStep;
                const Meta & meta = meta_of(superblock, Layout::t2);
                const Activations * a = task.activations + static_cast<size_t>(i) * task.n + column;
                prefetch(superblock, 3 * kStep);
                unpack(superblock, unpacked);
                for (int four = 0; four < kFours; ++four) {
                    int c = 0;
                    for (; c + 4 <= n; c += 4) tile<4>(unpacked, meta, four, a + c, sums + c);
                    for (; c < n; ++c) tile<1>(unpacked, meta, four, a + c, sums + c);
                }
            }
            for (int c = 0; c < n; ++c) {
                std::memcpy(task.out + (column + c) * task.stride + rowgroup * kRows, sums[c], sizeof sums[c]);
            }
        }
    }
}

constexpr Path kPath = {"neon", Layout::t2, multiply_vector, multiply_matrix, 3};

}  // namespace

const Path * neon() { return &kPath; }

}  // namespace luq

#else

const luq::Path * luq::neon() { return nullptr; }

#endif
