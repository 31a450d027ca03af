#include "blocks.h"

#include <cmath>
#include <cstring>

namespace luq {
namespace {

// A block of IQ1_M: 32 bytes with the lower 8 bits of the grid's row numbers; 16 bytes with two nibbles of upper 3 bits
// and the sign of delta; four 16-bit words with 4 scales of 3 bits and a nibble of d.
// One of IQ1_S: d; 32 bytes with the lower 8 bits; eight 16-bit words, each for 32 weights: four times upper 3 bits, the
// scale, the sign of delta.
constexpr int kHigh = 32;
constexpr int kScales = 48;
constexpr int kLowS = 2;
constexpr int kWordsS = 34;
constexpr uint16_t kNone = 0xffff;

uint16_t load16(const uint8_t * from) { return static_cast<uint16_t>(from[0] | from[1] << 8); }

void store16(uint8_t * to, unsigned value) {
    to[0] = static_cast<uint8_t>(value);
    to[1] = static_cast<uint8_t>(value >> 8);
}

int ternary(const uint8_t * c) {
    int number = 0;
    for (int i = 0; i < 8; ++i) number = 3 * number + c[i];
    return number;
}

void name_row(uint8_t * block, int place, int number, bool negative) {
    block[place] = static_cast<uint8_t>(number);
    const int nibble = number >> 8 | (negative ? 8 : 0);
    block[kHigh + place / 2] |= static_cast<uint8_t>(nibble << 4 * (place % 2));
}

}  // namespace

bool Grid::learn(ToFloat to_float) {
    numbers_.assign(6561, kNone);
    for (int first = 0; first < 2048; first += 32) {
        uint8_t block[block_bytes(Type::iq1_m)] = {};
        float values[kColumns];
        for (int place = 0; place < 32; ++place) name_row(block, place, first + place, false);
        store16(block + kScales + 4, 0xc000);  // d = 1.0, the half 0x3c00, a nibble a word from the lowest on
        store16(block + kScales + 6, 0x3000);
        to_float(block, values, kColumns);
        for (int i = 0; i < kColumns; ++i) {
            const float c = values[i] - 0.125f + 1.0f;
            if (c != 0.0f && c != 1.0f && c != 2.0f) return false;
            rows_[first + i / 8][i % 8] = static_cast<uint8_t>(c);
        }
    }
    for (int number = 0; number < 2048; ++number) {
        uint16_t & place = numbers_[ternary(rows_[number].data())];
        if (place != kNone) return false;
        place = static_cast<uint16_t>(number);
    }
    return true;
}

void Grid::take_apart_m(const uint8_t * block, BlockParts & parts) const {
    parts.d = 0;
    for (int word = 0; word < 4; ++word) {
        const uint16_t scales = load16(block + kScales + 2 * word);
        parts.d |= static_cast<uint16_t>(scales >> 12 << 4 * word);
        for (int i = 0; i < 4; ++i) parts.s[4 * word + i] = scales >> 3 * i & 7;
    }
    for (int place = 0; place < 32; ++place) {
        const int nibble = block[kHigh + place / 2] >> 4 * (place % 2) & 15;
        parts.b[place] = nibble < 8;
        std::memcpy(parts.c + 8 * place, rows_[block[place] | (nibble & 7) << 8].data(), 8);
    }
}

void Grid::put_together_m(const BlockParts & parts, uint8_t * block) const {
    std::memset(block, 0, block_bytes(Type::iq1_m));
    for (int word = 0; word < 4; ++word) {
        unsigned scales = (parts.d >> 4 * word & 15u) << 12;
        for (int i = 0; i < 4; ++i) scales |= static_cast<unsigned>(parts.s[4 * word + i]) << 3 * i;
        store16(block + kScales + 2 * word, scales);
    }
    for (int place = 0; place < 32; ++place) {
        name_row(block, place, numbers_[ternary(parts.c + 8 * place)], !parts.b[place]);
    }
}

void Grid::take_apart_s(const uint8_t * block, BlockParts & parts) const {
    parts.d = load16(block);
    for (int word = 0; word < 8; ++word) {
        const int bits = load16(block + kWordsS + 2 * word);
        parts.s[2 * word] = parts.s[2 * word + 1] = bits >> 12 & 7;
        for (int i = 0; i < 4; ++i) {
            const int place = 4 * word + i;
            parts.b[place] = bits < 0x8000;
            std::memcpy(parts.c + 8 * place, rows_[block[kLowS + place] | (bits >> 3 * i & 7) << 8].data(), 8);
        }
    }
}

void Grid::put_together_s(const BlockParts & parts, uint8_t * block) const {
    store16(block, parts.d);
    for (int word = 0; word < 8; ++word) {
        unsigned bits = static_cast<unsigned>(parts.s[2 * word]) << 12 | (parts.b[4 * word] ? 0u : 0x8000u);
        for (int i = 0; i < 4; ++i) {
            const int place = 4 * word + i, number = numbers_[ternary(parts.c + 8 * place)];
            block[kLowS + place] = static_cast<uint8_t>(number);
            bits |= static_cast<unsigned>(number >> 8) << 3 * i;
        }
        store16(block + kWordsS + 2 * word, bits);
    }
}

void Grid::take_apart(Type type, const uint8_t * block, BlockParts & parts) const {
    type == Type::iq1_m ? take_apart_m(block, parts) : take_apart_s(block, parts);
}

void Grid::put_together(Type type, const BlockParts & parts, uint8_t * block) const {
    type == Type::iq1_m ? put_together_m(parts, block) : put_together_s(parts, block);
}

bool Grid::agrees(Type type, ToFloat to_float) const {
    std::vector<uint8_t> block(block_bytes(type));
    BlockParts parts;
    float values[kColumns];
    for (uint32_t word = 1, tries = 0; tries < 8; ++tries) {
        for (uint8_t & byte : block) byte = static_cast<uint8_t>((word = word * 1664525u + 1013904223u) >> 24);
        take_apart(type, block.data(), parts);
        parts.d = 0x2c00;  // 1/16
        put_together(type, parts, block.data());
        to_float(block.data(), values, kColumns);
        for (int i = 0; i < kColumns; ++i) {
            const int eighths = (2 * parts.s[i / 16] + 1) * (8 * parts.c[i] + 2 * parts.b[i / 8] - 9);
            if (values[i] != static_cast<float>(eighths) / 128.0f) return false;
        }
    }
    return true;
}

}  // namespace luq
