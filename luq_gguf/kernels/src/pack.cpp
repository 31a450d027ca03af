#include "pack.h"

#include <cstring>

namespace luq {
namespace {

// Four columns at once, a byte each. No digit nor ternary number of five leaves its byte.
using Quad = uint32_t;

Quad load_quad(const uint8_t * c) {
    Quad quad;
    std::memcpy(&quad, c, sizeof quad);
    return quad;
}

// ceil(n * 256 / 243) of every number of five ternary digits.
struct Fractions {
    uint8_t of[243];

    Fractions() {
        for (int n = 0; n < 243; ++n) of[n] = static_cast<uint8_t>((n * 256 + 242) / 243);
    }
};

void write_meta(const Parts & parts, Meta & meta) {
    for (int row = 0; row < kRows; ++row) {
        const BlockParts & p = parts[row];
        uint32_t delta = 0, low = 0, high = static_cast<uint32_t>(p.d) << 16;
        for (int group = 0; group < kGroups; ++group) {
            delta |= static_cast<uint32_t>(p.b[2 * group]) << group;
            delta |= static_cast<uint32_t>(p.b[2 * group + 1]) << (group + 16);
        }
        for (int group = 0; group < 10; ++group) low |= static_cast<uint32_t>(p.s[group]) << 3 * group;
        for (int group = 10; group < 15; ++group) high |= static_cast<uint32_t>(p.s[group]) << 3 * (group - 10);
        low |= static_cast<uint32_t>(p.s[15] & 3) << 30;
        high |= static_cast<uint32_t>(p.s[15] >> 2) << 15;
        meta.delta[row] = delta;
        meta.low[row] = low;
        meta.high[row] = high;
    }
}

void read_meta(const Meta & meta, Parts & parts) {
    for (int row = 0; row < kRows; ++row) {
        for (int group = 0; group < kGroups; ++group) {
            parts[row].s[group] = static_cast<uint8_t>(scale_bits(meta, row, group));
            for (int half = 0; half < 2; ++half) {
                parts[row].b[2 * group + half] = static_cast<uint8_t>(delta_bit(meta, row, group, half));
            }
        }
        parts[row].d = half_scale(meta, row);
    }
}

void write_t2(const Parts & parts, uint8_t * out) {
    for (int row = 0; row < kRows; ++row) {
        for (int vector = 0; vector < 16; ++vector) {
            const uint8_t * c = parts[row].c + 64 * (vector / 4) + 4 * (vector % 4);
            const Quad quad = load_quad(c) | load_quad(c + 16) << 2 | load_quad(c + 32) << 4 | load_quad(c + 48) << 6;
            std::memcpy(out + vector * kVector + 4 * row, &quad, sizeof quad);
        }
    }
}

void read_t2(const uint8_t * in, Parts & parts) {
    for (int vector = 0; vector < 16; ++vector) {
        for (int byte = 0; byte < kVector; ++byte) {
            uint8_t * c = parts[byte / 4].c + 64 * (vector / 4) + 4 * (vector % 4) + byte % 4;
            for (int t = 0; t < 4; ++t) c[16 * t] = in[vector * kVector + byte] >> 2 * t & 3;
        }
    }
}

void write_t5(const Parts & parts, uint8_t * out) {
    static const Fractions fractions;
    for (int row = 0; row < kRows; ++row) {
        const uint8_t * c = parts[row].c;
        for (int vector = 0; vector < 13; ++vector, c += 20) {
            Quad numbers = 0;
            for (int t = 0; t < 5; ++t) numbers = 3 * numbers + (5 * vector + t < kQuads ? load_quad(c + 4 * t) : 0);
            uint8_t bytes[4];
            std::memcpy(bytes, &numbers, sizeof bytes);
            for (uint8_t & byte : bytes) byte = fractions.of[byte];
            std::memcpy(out + vector * kVector + 4 * row, bytes, sizeof bytes);
        }
    }
}

void read_t5(const uint8_t * in, Parts & parts) {
    for (int vector = 0; vector < 13; ++vector) {
        for (int byte = 0; byte < kVector; ++byte) {
            unsigned rest = in[vector * kVector + byte];
            for (int t = 0; t < 5 && 5 * vector + t < kQuads; ++t) {
                parts[byte / 4].c[4 * (5 * vector + t) + byte % 4] = static_cast<uint8_t>(3 * rest >> 8);
                rest = 3 * rest & 255;
            }
        }
    }
}

}  // namespace

void read_superblock(Layout layout, const uint8_t * superblock, Parts & parts) {
    layout == Layout::t5 ? read_t5(superblock, parts) : read_t2(superblock, parts);
    read_meta(meta_of(superblock, layout), parts);
}

void pack_rowgroup(const Grid & grid, Type type, Layout layout, const uint8_t * rows, size_t row_bytes,
                   int n_superblocks, uint8_t * out) {
    Parts parts;
    for (int i = 0; i < n_superblocks; ++i, out += superblock_bytes(layout)) {
        for (int row = 0; row < kRows; ++row) {
            grid.take_apart(type, rows + row * row_bytes + i * block_bytes(type), parts[row]);
        }
        layout == Layout::t5 ? write_t5(parts, out) : write_t2(parts, out);
        write_meta(parts, meta_of(out, layout));
    }
}

void unpack_rowgroup(const Grid & grid, Type type, Layout layout, const uint8_t * packed, int n_superblocks,
                     uint8_t * rows, size_t row_bytes) {
    Parts parts;
    for (int i = 0; i < n_superblocks; ++i, packed += superblock_bytes(layout)) {
        read_superblock(layout, packed, parts);
        for (int row = 0; row < kRows; ++row) {
            grid.put_together(type, parts[row], rows + row * row_bytes + i * block_bytes(type));
        }
    }
}

}  // namespace luq
