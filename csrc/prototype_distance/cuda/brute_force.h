// How brute force splits the bank.
#pragma once
#include "cuda/launch.h"
#include "prototype_distance/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

constexpr int kBruteForceRows = 64;  // features that share a pass over the bank

// Splits per row tile, so that every block has work.
__host__ __device__ __forceinline__ int brute_force_splits(int row_tiles, int bank_tiles, int blocks) {
    const int splits = row_tiles > 0 ? (blocks + row_tiles - 1) / row_tiles : 1;
    return splits < bank_tiles ? splits : bank_tiles;
}

// An upper bound on the items of row tiles that are split.
inline std::int64_t most_split_items(int blocks) { return 2 * static_cast<std::int64_t>(blocks); }

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
