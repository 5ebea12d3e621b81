// Screening in int8: dot products of features and prototypes, of which only the smallest screened value of each block
// of prototypes is kept. Compiled for the instruction sets of VSAD_FOR_EACH_INT8.
#pragma once
#include <cstdint>

#include "cpu/isa.h"

namespace vsad {

constexpr int kBlock = 16;                 // prototypes that share a scale and a minimum
constexpr int kPlace = kBlock - 1;         // mask of the bits of a minimum that hold the prototype's place
constexpr float kPadding = 1e38f;          // above every |p|^2, and still finite when its last bits are replaced
constexpr int kFeatures = 16;              // features that a panel interleaves
constexpr int kStep = 64;                  // channels per row of a tile: the bytes of a register
constexpr int kInt8Group = 2 * kFeatures;  // features must be padded to whole groups, blocks to pairs

// Each block is C / kStep tiles of kBlock rows of kStep bytes.
struct Int8Blocks {
    std::int8_t* tiles;
    float* scale;        // (blocks,)
    float* offset;       // (blocks, kBlock) |p|^2 / 2, kPadding where the last block is padded
    std::int32_t* bias;  // (blocks, kBlock) -128 times the sum of the codes: undoes the offset of unsigned features
};

// Panels hold kFeatures features each, as C / 4 rows of kFeatures times 4 codes. Where the kernel takes unsigned codes
// they are 128 too large.
struct Int8Screen {
    Int8Blocks blocks;
    std::int64_t begin, end;  // the range of blocks; end - begin is even
    std::int64_t steps;       // C / kStep
    const std::uint8_t* panels;
    const float* scale;  // (features,)
    std::int64_t features;
    float* minima;  // (end - begin, features): the smallest |p|^2 / 2 - <f, p> of each block
};

struct Int8Kernels {
    bool is_signed;  // whether panels hold signed codes
    void (*minima)(const Int8Screen& screen);
    // Writes the kBlock dot products of one row of unsigned codes with the prototypes of a block.
    void (*dots)(const std::uint8_t* row, const Int8Blocks& blocks, std::int64_t block, std::int64_t steps,
                 std::int32_t* to);
};

#define VSAD_DECLARE(isa, ...)             \
    namespace isa {                        \
    extern const Int8Kernels kInt8Kernels; \
    }
VSAD_FOR_EACH_INT8(VSAD_DECLARE)
#undef VSAD_DECLARE

// The int8 kernels for the instruction set in use; null if it has none.
const Int8Kernels* int8_kernels();

}  // namespace vsad
