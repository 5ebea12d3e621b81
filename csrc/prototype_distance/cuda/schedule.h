// How a screening pass is cut into items, a row tile of features against one split of the bank each.
#pragma once
#include <climits>

#include "cuda/launch.h"
#include "prototype_distance/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

constexpr int kMostSplits = 32;  // parts that the bank is split into for one row tile

// Each of the `row_tiles` row tiles has `splits` items, of `tiles` tiles of prototypes each.
struct Schedule {
    int row_tiles, splits, tiles;
};

// A list should receive at most kept / 4 of the k nearest on average, so that it rarely overflows; with
// `lists` lists per split this bounds the splits from below.
__host__ __device__ __forceinline__ int fewest_splits(const ScreenShape& s, std::int64_t k) {
    return s.kept < 8 ? 1 : static_cast<int>((k + 2 * s.lists - 1) / (2 * s.lists));
}

// Chooses the splits with which the blocks finish at nearly the same time.
__host__ __device__ __forceinline__ Schedule schedule(std::int64_t count, std::int64_t P, const ScreenShape& s,
                                                      std::int64_t k) {
    const int row_tiles = static_cast<int>((count + kTileRows - 1) / kTileRows);
    const int tiles = static_cast<int>((P + s.tile_prototypes - 1) / s.tile_prototypes), fewest = fewest_splits(s, k);
    Schedule best{row_tiles, 1, tiles};
    if (row_tiles == 0) return best;
    const int clusters = s.blocks / s.cluster, cluster_tiles = (row_tiles + s.cluster - 1) / s.cluster;
    int most = 4 * clusters / cluster_tiles;
    most = most < fewest ? fewest : most > kMostSplits ? kMostSplits : most;
    std::int64_t least_cost = LLONG_MAX;
    for (int splits = fewest < tiles ? fewest : tiles; splits <= most && splits <= tiles; ++splits) {
        const int each = (tiles + splits - 1) / splits, used = (tiles + each - 1) / each;
        const std::int64_t items = static_cast<std::int64_t>(cluster_tiles) * used;
        // starting and finishing an item costs about as much as one tile
        const std::int64_t cost = (items + clusters - 1) / clusters * (each + 1);
        if (cost >= least_cost) continue;
        least_cost = cost;
        best = {row_tiles, used, each};
    }
    return best;
}

// An upper bound on the items of a pass over `rows` features or fewer.
inline std::int64_t most_items(std::int64_t rows, const ScreenShape& s, std::int64_t k) {
    const std::int64_t row_tiles = (rows + kTileRows - 1) / kTileRows, fewest = fewest_splits(s, k);
    const std::int64_t one_round = 4 * static_cast<std::int64_t>(s.blocks);
    return row_tiles * fewest > one_round ? row_tiles * fewest : one_round;
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
