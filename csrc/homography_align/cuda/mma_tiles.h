// How the tensor core forward deals pixels and heads to blocks and warps.
#pragma once
#include "homography_align/cuda/outlook.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kWarps = kThreads / 32;
// Heads that share a tile's outlooks; more would leave a block too few tiles to share L1.
constexpr int kMostHeads = 4;

// A warp's target pixels, their place among the block's tiles, and the warp's first head.
struct WarpTile {
    int b, v, head, x, y, place;
};

// How a block's warps share its tiles: `groups` (1, 2 or 4) warps have a tile together, each with its
// own heads, and the tiles lie `wide` beside each other.
struct Sharing {
    int groups, tiles, wide;     // of a block
    int shares, blocks, across;  // blocks that share the heads; blocks of a view, and those beside each other

    __host__ __device__ Sharing(const AlignArguments& a, int heads)
        : groups(a.heads <= heads             ? 1
                 : heads == 2 || a.heads <= 2 ? 2
                                              : kMostHeads),
          tiles(kWarps / groups),
          wide(tiles == 8 ? 4 : 2),
          shares((a.heads + groups * heads - 1) / (groups * heads)) {
        const int high = tiles / wide;
        across = static_cast<int>((a.W + wide * kSide - 1) / (wide * kSide));
        blocks = across * static_cast<int>((a.H + high * kSide - 1) / (high * kSide));
    }
};

// The pixels of a block's tile, and the head of its warp `group`. Where the last head has no partner, its warp begins
// one head earlier: two warps then write the same results of that head.
template <int heads>
__device__ __forceinline__ WarpTile tile_of(const PackedAlignArguments& a, const Sharing& sharing, int tile,
                                            int group) {
    const int V = static_cast<int>(a.V), share = blockIdx.x % sharing.shares, rest = blockIdx.x / sharing.shares;
    const int block = rest % sharing.blocks, view = rest / sharing.blocks;
    const int head = (share * sharing.groups + group) * heads;
    return {view / V,
            view % V,
            head < a.heads && head > a.heads - heads ? a.heads - heads : head,
            (block % sharing.across * sharing.wide + tile % sharing.wide) * kSide,
            (block / sharing.across * (sharing.tiles / sharing.wide) + tile / sharing.wide) * kSide,
            tile};
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
