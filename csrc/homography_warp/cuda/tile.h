// How target pixels and channels are distributed over blocks and threads.
//
// Channels last: a group of lanes takes a pixel, each lane some packs of 16 bytes of its channels, and a block takes a
// tile that is 8 pixels wide, so that the taps of neighboring pixels meet in L1. Planes: a lane takes a pixel, a warp
// takes 32 pixels of a row and goes through the channels of its share. All numbers by which a thread would divide to
// find its place are powers of two.
#pragma once
#include <initializer_list>

#include "cuda/device.h"
#include "homography_warp/taps.h"

namespace vsad {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kVectorBytes = 16;
constexpr int kPlaneTileWidth = 32, kPixelTileWidth = 8;
// Finding the taps of a pixel costs as much as some packs of channels: a lane takes up to this many packs before more
// lanes share the pixel, if 64 bytes are read together.
constexpr int kPacksPerLane = 5, kLanesPerRead = 4;
constexpr std::int64_t kBlocks = 4 * 132;    // enough to fill a GPU; with fewer, planes distribute their channels too
constexpr std::int64_t kMostBlocks = 65535;  // the limit of grid.y and grid.z, beyond which blocks take several places
// In the backward a block takes this many tiles before it reduces the homography's gradient once.
constexpr int kTilesPerBlock = 8;

struct Tiling {
    int lane_bits;           // 1 << lane_bits lanes share a pixel
    int width_bits, height;  // the tile's width is 1 << width_bits pixels
    std::int64_t tiles_x, tiles_y;
    int share_bits;  // the channels are divided into 1 << share_bits parts
    bool packed;     // whether kVectorBytes of channels are read at once

    std::int64_t shares() const { return std::int64_t(1) << share_bits; }
    std::int64_t tiles() const { return tiles_x * tiles_y; }
    // Blocks for groups of tiles of every batch and share.
    dim3 grid(const WarpArguments& a, std::int64_t across, std::int64_t down) const {
        const std::int64_t layers = a.B * shares();
        return dim3(static_cast<unsigned>(across), static_cast<unsigned>(down < kMostBlocks ? down : kMostBlocks),
                    static_cast<unsigned>(layers < kMostBlocks ? layers : kMostBlocks));
    }
};

inline bool aligned(const ImageView& image, std::int64_t vector, std::int64_t bytes) {
    return image.channel == 1 && reinterpret_cast<std::uintptr_t>(image.data) % (vector * bytes) == 0 &&
           image.batch % vector == 0 && image.y % vector == 0 && image.x % vector == 0;
}

template <typename Element>
Tiling tile(const WarpArguments& a, std::initializer_list<const ImageView*> images) {
    constexpr std::int64_t vector = kVectorBytes / sizeof(Element);
    bool packed = a.C % vector == 0, channels_last = a.C > 1;
    for (const ImageView* image : images) {
        packed = packed && aligned(*image, vector, sizeof(Element));
        channels_last = channels_last && image->channel == 1;
    }
    Tiling t{0, 5, kThreads / kPlaneTileWidth, 0, 0, 0, packed};
    if (channels_last) {
        const std::int64_t packs = packed ? a.C / vector : a.C;
        const auto lanes = [&] { return std::int64_t(1) << t.lane_bits; };
        while (lanes() < kLanesPerRead && lanes() < packs) ++t.lane_bits;
        while (lanes() < 32 && lanes() * kPacksPerLane < packs) ++t.lane_bits;
        t.width_bits = 3;
        t.height = static_cast<int>(kThreads / (lanes() * kPixelTileWidth));
    }
    t.tiles_x = (a.W + (1 << t.width_bits) - 1) >> t.width_bits;
    t.tiles_y = (a.H + t.height - 1) / t.height;
    if (!channels_last && t.tiles() * a.B > 0)
        while (t.shares() < a.C && t.shares() < 1024 && t.tiles() * a.B * t.shares() < kBlocks) ++t.share_bits;
    return t;
}

// A batch and a share of the channels.
struct Layer {
    std::int64_t b;
    int share;
};

// Calls f(layer) for the batches and shares of this block.
template <typename F>
__device__ __forceinline__ void for_each_layer(const WarpArguments& a, const Tiling& t, F f) {
    for (std::int64_t i = blockIdx.z; i < a.B << t.share_bits; i += gridDim.z)
        f(Layer{i >> t.share_bits, static_cast<int>(i & ((1 << t.share_bits) - 1))});
}

// The pixel of this thread in a tile.
struct Place {
    int x, y, lane;
    bool exists;

    __device__ __forceinline__ Place(const WarpArguments& a, const Tiling& t, int tile_x, int tile_y) {
        const int pixel = threadIdx.x >> t.lane_bits;
        lane = threadIdx.x & ((1 << t.lane_bits) - 1);
        x = (tile_x << t.width_bits) + (pixel & ((1 << t.width_bits) - 1));
        y = tile_y * t.height + (pixel >> t.width_bits);
        exists = x < a.W && y < a.H;
    }
};

// The channels of this thread: begin, begin + step, ... below end.
struct Channels {
    int begin, end, step;

    __device__ __forceinline__ Channels(const WarpArguments& a, const Tiling& t, const Place& place, int share,
                                        int vector)
        : begin(static_cast<int>(share * a.C >> t.share_bits) + place.lane * vector),
          end(static_cast<int>((share + 1) * a.C >> t.share_bits)),
          step(vector << t.lane_bits) {}
};

// The taps of this thread's pixel; where it is alive, they all lie inside the source.
template <int n>
__device__ __forceinline__ Taps<float, n> locate(const WarpArguments& a, const Source<float>& source, int x, int y) {
    Taps<float, n> taps = source.taps<n>(static_cast<float>(x), static_cast<float>(y));
    if (a.padding == Padding::zeros)
        taps.alive = taps.alive && move_inside(taps.x, static_cast<int>(a.Ws - 1)) &&
                     move_inside(taps.y, static_cast<int>(a.Hs - 1));
    return taps;
}

// Kernel::run<taps along an axis, channels read at once>(a, tiling, arguments...).
template <typename Kernel, typename Element, typename... Arguments>
void choose(const WarpArguments& a, const Tiling& tiling, Arguments... arguments) {
    constexpr int vector = kVectorBytes / sizeof(Element);
    const auto with = [&](auto n) {
        if (tiling.packed)
            Kernel::template run<n, vector>(a, tiling, arguments...);
        else
            Kernel::template run<n, 1>(a, tiling, arguments...);
    };
    if (a.mode == Mode::nearest) return with(std::integral_constant<int, 1>());
    if (a.mode == Mode::bilinear) return with(std::integral_constant<int, 2>());
    with(std::integral_constant<int, 4>());
}

}  // namespace cuda
}  // namespace vsad
