// Blocks into superblocks and back.
#pragma once

#include "blocks.h"

namespace luq {

using Parts = std::array<BlockParts, kRows>;

// 16 blocks of a superblock.
void read_superblock(Layout layout, const uint8_t * superblock, Parts & parts);

// 16 rows, each of n_superblocks blocks that follow one another at `row_bytes` apart.
void pack_rowgroup(const Grid & grid, Type type, Layout layout, const uint8_t * rows, size_t row_bytes,
                   int n_superblocks, uint8_t * out);
void unpack_rowgroup(const Grid & grid, Type type, Layout layout, const uint8_t * packed, int n_superblocks,
                     uint8_t * rows, size_t row_bytes);

}  // namespace luq
