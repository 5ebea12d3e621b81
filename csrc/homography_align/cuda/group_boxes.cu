// The box of every group of tiles, between the backward, which leaves the boxes of tiles, and the gather, which looks
// for the tiles that touch its source pixels. A warp owns a group.
#include "homography_align/cuda/touched_tiles.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kWarpsOfBlock = 4;

__global__ void __launch_bounds__(32 * kWarpsOfBlock)
    group_boxes_kernel(SourceBox* boxes, std::int64_t slots, const TileGrid grid) {
    const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kWarpsOfBlock + threadIdx.x / 32;
    if (at >= slots * grid.groups()) return;
    const std::int64_t slot = at / grid.groups();
    const int group = static_cast<int>(at - slot * grid.groups()), lane = static_cast<int>(threadIdx.x) % 32;
    const SourceBox* tiles = boxes + slot * grid.tiles();
    const TilePlace first = grid.first_of(group);
    SourceBox all = {0x7fffffff, 0x7fffffff, -1, -1};
#pragma unroll
    for (int i = lane; i < kGroupTiles; i += 32) {
        const TilePlace place = place_in_group(first, i);
        if (!grid.holds(place)) continue;
        const SourceBox box = tiles[grid.index(place)];
        if (box.right < 0) continue;  // touches nothing
        all = {min(all.left, box.left), min(all.top, box.top), max(all.right, box.right), max(all.bottom, box.bottom)};
    }
    all = {__reduce_min_sync(kWarp, all.left), __reduce_min_sync(kWarp, all.top), __reduce_max_sync(kWarp, all.right),
           __reduce_max_sync(kWarp, all.bottom)};
    if (lane == 0) boxes[slots * grid.tiles() + at] = all;
}

}  // namespace
}  // namespace homography_align

void homography_align_group_boxes(const AlignArguments& a, SourceBox* boxes, int tile_side, cudaStream_t stream) {
    using namespace homography_align;
    const TileGrid grid = tile_grid(a.H, a.W, tile_side);
    const std::int64_t slots = a.B * a.V * a.N, groups = slots * grid.groups();
    launch(group_boxes_kernel, grid_of((groups + kWarpsOfBlock - 1) / kWarpsOfBlock), dim3(32 * kWarpsOfBlock), 0,
           stream, boxes, slots, grid);
}

}  // namespace cuda
}  // namespace vsad
