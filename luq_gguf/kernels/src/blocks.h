// Blocks of IQ1_M as they are in files, taken apart and put together again.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "layout.h"

namespace luq {

// Writes n * 256 floats for n blocks: ggml's own dequantization.
using ToFloat = void (*)(const void * blocks, float * values, int64_t n_values);

struct BlockParts {
    uint8_t c[kColumns];     // 0, 1, 2
    uint8_t b[kColumns / 8];
    uint8_t s[kGroups];
    uint16_t d;
};

// The 2048 rows of 8 weights that IQ1_M knows. They are asked of ggml, by dequantizing blocks that name each of them.
class Grid {
  public:
    // Returns false if what ggml says is not a grid of 2048 different rows of -1, 0, 1.
    bool learn(ToFloat to_float);

    void take_apart(const uint8_t * block, BlockParts & parts) const;
    // The inverse, to the bit: there is one way to write a block.
    void put_together(const BlockParts & parts, uint8_t * block) const;

  private:
    std::array<std::array<uint8_t, 8>, 2048> rows_{};  // c, not g
    std::vector<uint16_t> numbers_;                    // by the row read as a ternary number
};

}  // namespace luq
