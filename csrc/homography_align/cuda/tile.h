// How target or source pixels are dealt to blocks of threads, and what every launcher needs.
#pragma once
#include "homography_align/cuda/packs.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kThreads = 256;
constexpr int kWideLanes = 16;  // lanes per pixel of the forward, for rows of more than one slice of four lanes

// Blocks per multiprocessor for the larger kernels. Two need at most 128 registers per thread, into which the compiler
// fits them for these architectures only; for the others they would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
constexpr int kBlocksPerMultiprocessor = 2;
#else
constexpr int kBlocksPerMultiprocessor = 1;
#endif

// A block's tile of pixels. The pixels of a warp form a rectangle, so that their taps share cache lines.
template <int kLanes>
struct Tile {
    static constexpr int kWarpWidth = kLanes == 4 ? 4 : 2, kWarpHeight = 32 / kLanes / kWarpWidth;
    static constexpr int kWidth = 2 * kWarpWidth, kHeight = 4 * kWarpHeight, kPixels = kWidth * kHeight;
    static_assert(kPixels * kLanes == kThreads, "kLanes threads per pixel");

    static std::int64_t across(std::int64_t W) { return (W + kWidth - 1) / kWidth; }
    static std::int64_t count(std::int64_t H, std::int64_t W) { return across(W) * ((H + kHeight - 1) / kHeight); }
    // Position of pixel i within the tile.
    static __device__ __forceinline__ int x(int i) {
        return i / (32 / kLanes) % 2 * kWarpWidth + i % (32 / kLanes) % kWarpWidth;
    }
    static __device__ __forceinline__ int y(int i) {
        return i / (32 / kLanes) / 2 * kWarpHeight + i % (32 / kLanes) / kWarpWidth;
    }
};

// What a block works on: a slice of one head's channels, at a tile of one view. Slices run fastest, then heads: blocks
// that run at the same time share the sectors of a pixel.
struct Block {
    int slice, head, tile, view;  // view counts over all batches

    __device__ __forceinline__ Block(int slices, int heads, int tiles)
        : slice(blockIdx.x % slices),
          head(blockIdx.x / slices % heads),
          tile(blockIdx.x / slices / heads % tiles),
          view(blockIdx.x / slices / heads / tiles) {}
};

// The number of blocks that share the channels of a head; each finds all weights for itself.
template <typename Element, int kLanes>
int slices(int packs) {
    constexpr int per_slice = kSlicePacks<Element, kLanes>;
    return packs > per_slice ? (packs + per_slice - 1) / per_slice : 1;
}

inline dim3 grid_of(std::int64_t blocks) {
    if (blocks > 0x7fffffff) throw std::invalid_argument("homography_align: more than 2^31 blocks");
    return dim3(static_cast<unsigned>(blocks));
}

// Calls f(the window as a std::integral_constant). Kernels are compiled for these windows only.
template <typename F>
void with_window(int window, F f) {
    switch (window) {
        case 1:
            return f(std::integral_constant<int, 1>());
        case 3:
            return f(std::integral_constant<int, 3>());
        case 5:
            return f(std::integral_constant<int, 5>());
        case 7:
            return f(std::integral_constant<int, 7>());
        default:
            throw std::invalid_argument("homography_align: window must be odd and at most 7");
    }
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
