// Which tiles of target pixels touch given source pixels. The backward leaves the box of source pixels that every tile
// touches in every slot, and group_boxes.cu the box of every group of 8 x 8 tiles; a gather looks at the groups first,
// and then at the tiles of those groups that touch. Every warp looks for itself, which takes it fewer instructions than
// to share what was found, and no barrier.
#pragma once
#include "homography_align/cuda/window.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kGroupSide = 8, kGroupTiles = kGroupSide * kGroupSide;

struct TilePlace {
    int x, y;  // count tiles
};

// The tiles of a view and their groups, of which those at the right and lower border may lack tiles.
struct TileGrid {
    int across, down;

    __host__ __device__ __forceinline__ int tiles() const { return across * down; }
    __host__ __device__ __forceinline__ int groups_across() const { return (across + kGroupSide - 1) / kGroupSide; }
    __host__ __device__ __forceinline__ int groups() const {
        return groups_across() * ((down + kGroupSide - 1) / kGroupSide);
    }
    __device__ __forceinline__ int index(const TilePlace& at) const { return at.y * across + at.x; }
    __device__ __forceinline__ bool holds(const TilePlace& at) const { return at.x < across && at.y < down; }
    __device__ __forceinline__ TilePlace first_of(int group) const {
        return {group % groups_across() * kGroupSide, group / groups_across() * kGroupSide};
    }
};

inline TileGrid tile_grid(std::int64_t H, std::int64_t W, int tile_side) {
    return {static_cast<int>((W + tile_side - 1) / tile_side), static_cast<int>((H + tile_side - 1) / tile_side)};
}

// The number of boxes of a slot: those of its tiles and of their groups.
inline std::int64_t boxes_of_slot(std::int64_t H, std::int64_t W, int tile_side) {
    const TileGrid grid = tile_grid(H, W, tile_side);
    return static_cast<std::int64_t>(grid.tiles()) + grid.groups();
}

// The place of tile i of a group.
__device__ __forceinline__ TilePlace place_in_group(const TilePlace& first, unsigned i) {
    return {first.x + static_cast<int>(i % kGroupSide), first.y + static_cast<int>(i / kGroupSide)};
}

// The boxes of a call. An edge is a slot of a view; edges count over all batches.
struct CallBoxes {
    const SourceBox *tiles, *groups;
    TileGrid grid;

    CallBoxes(const AlignArguments& a, const SourceBox* boxes, int tile_side)
        : tiles(boxes), grid(tile_grid(a.H, a.W, tile_side)) {
        groups = tiles + a.B * a.V * a.N * grid.tiles();
    }
    __device__ __forceinline__ SourceBox tile(std::int64_t edge, int i) const { return tiles[edge * grid.tiles() + i]; }
    __device__ __forceinline__ SourceBox group(std::int64_t edge, int i) const {
        return groups[edge * grid.groups() + i];
    }
};

// Without branches: what decides is that boxes are loaded in one instruction.
__device__ __forceinline__ bool meet(const SourceBox& a, const SourceBox& b) {
    return (a.left <= b.right) & (a.right >= b.left) & (a.top <= b.bottom) & (a.bottom >= b.top);
}

// Calls visit(i), in ascending order, for all i < count with test(i). The warp calls this together and visits together.
template <typename Test, typename Visit>
__device__ __forceinline__ void for_each_hit(int count, const Test& test, const Visit& visit) {
    const int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll 1
    for (int first = 0; first < count; first += 32) {
        const bool hit = first + lane < count && test(first + lane);
#pragma unroll 1
        for (unsigned hits = __ballot_sync(kWarp, hit); hits; hits &= hits - 1)
            visit(first + __ffs(static_cast<int>(hits)) - 1);
    }
}

// Calls visit(v, slot) for all slots that hold the source view.
template <typename Visit>
__device__ __forceinline__ void for_each_slot(const AlignArguments& a, int source, const Visit& visit) {
    const int N = static_cast<int>(a.N), slots = static_cast<int>(a.V) * N;
    for_each_hit(slots, [&](int i) { return source_of(a, 0, i) == source; }, [&](int i) { visit(i / N, i % N); });
}

// Calls visit(place) for all tiles of an edge that touch the box `own`: group by group, always in the same order.
template <typename Visit>
__device__ __forceinline__ void for_each_touching_tile(const CallBoxes& boxes, std::int64_t edge, const SourceBox& own,
                                                       const Visit& visit) {
    const TileGrid& grid = boxes.grid;
    for_each_hit(
        grid.groups(), [&](int group) { return meet(boxes.group(edge, group), own); },
        [&](int group) {
            const TilePlace first = grid.first_of(group);
            for_each_hit(
                kGroupTiles,
                [&](int i) {
                    const TilePlace at = place_in_group(first, i);
                    return grid.holds(at) && meet(boxes.tile(edge, grid.index(at)), own);
                },
                [&](int i) { visit(place_in_group(first, i)); });
        });
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
