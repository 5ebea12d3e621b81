// Screening in bytes: dot products of features and prototypes, of which only the smallest result of each block
// of prototypes is kept. Compiled for instruction sets of its own, see VSAD_FOR_EACH_INT8.
#pragma once
#include <cstdint>

#include "cpu/isa.h"

namespace vsad {

constexpr int kBlock = 16;                 // prototypes that share a scale and a minimum
constexpr int kPlace = kBlock - 1;         // the bits of a minimum that name the prototype
constexpr float kPadding = 1e38f;          // beyond every |p|^2, and still a number when its last bits change
constexpr int kFeatures = 16;              // that stand side by side in a panel
constexpr int kStep = 64;                  // channels that a row of a tile holds: bytes of a register
constexpr int kInt8Group = 2 * kFeatures;  // features must be padded to whole groups, blocks to pairs

// A block is C / kStep tiles of kBlock rows of kStep bytes.
struct Int8Blocks {
    std::int8_t* tiles;
    float* scale;        // (blocks,)
    float* offset;       // (blocks, kBlock) |p|^2 / 2, kPadding where the last block is padded
    std::int32_t* bias;  // (blocks, kBlock) -128 times the sum of the bytes
};

// features in panels of kFeatures: C / 4 rows of kFeatures times 4 bytes, each 128 too large where the
// kernel wants unsigned ones.
struct Int8Screen {
    Int8Blocks blocks;
    std::int64_t begin, end;  // of the blocks; end - begin is even
    std::int64_t steps;       // C / kStep
    const std::uint8_t* panels;
    const float* scale;  // (features,)
    std::int64_t features;
    float* minima;  // (end - begin, features): the smallest |p|^2 / 2 - <f, p> of each block
};

struct Int8Kernels {
    bool is_signed;  // the panels' bytes
    void (*minima)(const Int8Screen& screen);
    // The kBlock dot products of one row of unsigned bytes with the prototypes of a block.
    void (*dots)(const std::uint8_t* row, const Int8Blocks& blocks, std::int64_t block, std::int64_t steps,
                 std::int32_t* to);
};

#define VSAD_DECLARE(isa, ...)             \
    namespace isa {                        \
    extern const Int8Kernels kInt8Kernels; \
    }
VSAD_FOR_EACH_INT8(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
