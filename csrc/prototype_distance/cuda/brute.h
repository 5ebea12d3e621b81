// How brute force cuts the bank.
#pragma once
#include "cuda/device.h"
#include "prototype_distance/cuda/kernels.h"

namespace vsad {
namespace cuda {

constexpr int kBruteRows = 64;  // that share a pass over the bank

// Into how many pieces, so that all blocks have something to do.
__host__ __device__ __forceinline__ int brute_pieces(int row_tiles, int bank_tiles, int blocks) {
    const int pieces = row_tiles > 0 ? (blocks + row_tiles - 1) / row_tiles : 1;
    return pieces < bank_tiles ? pieces : bank_tiles;
}

// Items that are in pieces are fewer than this.
inline std::int64_t most_pieces(int blocks) { return 2 * static_cast<std::int64_t>(blocks); }

}  // namespace cuda
}  // namespace vsad
