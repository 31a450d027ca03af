// Blocks of IQ1_M and IQ1_S as they are in files, taken apart and put together again.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "layout.h"

namespace luq {

// Writes n * 256 floats for n blocks: ggml's own dequantization.
using ToFloat = void (*)(const void * blocks, float * values, int64_t n_values);

enum class Type { iq1_m, iq1_s };

static constexpr size_t block_bytes(Type type) { return type == Type::iq1_m ? 56 : 50; }

struct BlockParts {
    uint8_t c[kColumns];     // 0, 1, 2
    uint8_t b[kColumns / 8];
    uint8_t s[kGroups];
    uint16_t d;
};

// The 2048 rows of 8 weights that both types know. They are asked of ggml, by dequantizing IQ1_M blocks that name each of
// them.
class Grid {
  public:
    // Returns false if what ggml says is not a grid of 2048 different rows of -1, 0, 1.
    bool learn(ToFloat to_float);

    void take_apart(Type type, const uint8_t * block, BlockParts & parts) const;
    // The inverse, to the bit: there is one way to write a block.
    void put_together(Type type, const BlockParts & parts, uint8_t * block) const;

    // Whether ggml dequantizes blocks of this type to what they are taken for here.
    bool agrees(Type type, ToFloat to_float) const;

  private:
    void take_apart_m(const uint8_t * block, BlockParts & parts) const;
    void take_apart_s(const uint8_t * block, BlockParts & parts) const;
    void put_together_m(const BlockParts & parts, uint8_t * block) const;
    void put_together_s(const BlockParts & parts, uint8_t * block) const;

    std::array<std::array<uint8_t, 8>, 2048> rows_{};  // c, not g
    std::vector<uint16_t> numbers_;                    // by the row read as a ternary number
};

}  // namespace luq
