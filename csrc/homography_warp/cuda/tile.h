// How target pixels and channels are distributed over blocks and threads.
//
// Channels last: a group of lanes takes a pixel, each lane 16 bytes of channels, and a block takes a tile that is 8
// pixels wide, so that the taps of neighboring pixels meet in L1. Planes: a lane takes a pixel, a warp takes 32 pixels
// of a row and goes through the channels of its share.
#pragma once
#include <initializer_list>

#include "cuda/device.h"
#include "homography_warp/taps.h"

namespace vsad {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kVectorBytes = 16;
constexpr int kPlaneTileWidth = 32, kPixelTileWidth = 8;
constexpr std::int64_t kBlocks = 4 * 132;  // enough to fill a GPU; with fewer, planes distribute their channels too
// In the backward a block takes this many tiles before it reduces the homography's gradient once.
constexpr int kTilesPerBlock = 8;

struct Tiling {
    int lanes;          // number of lanes that share a pixel
    int width, height;  // size of the tile in pixels; lanes * width * height == kThreads
    std::int64_t tiles_x, tiles_y;
    std::int64_t shares;  // number of parts that the channels are divided into
    bool packed;          // whether kVectorBytes of channels are read at once

    dim3 grid(const WarpArguments& a, int tiles_per_block = 1) const {
        const std::int64_t tiles = (tiles_x * tiles_y + tiles_per_block - 1) / tiles_per_block * a.B;
        return dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(shares));
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
    Tiling t{1, kPlaneTileWidth, kThreads / kPlaneTileWidth, 0, 0, 1, packed};
    if (channels_last) {
        const std::int64_t packs = packed ? a.C / vector : a.C;
        while (t.lanes < 32 && t.lanes < packs) t.lanes *= 2;
        t.width = kPixelTileWidth;
        while (t.lanes * t.width > kThreads) t.width /= 2;
        t.height = kThreads / (t.lanes * t.width);
    }
    t.tiles_x = (a.W + t.width - 1) / t.width;
    t.tiles_y = (a.H + t.height - 1) / t.height;
    if (!channels_last && t.tiles_x * t.tiles_y * a.B > 0)
        while (t.shares < a.C && t.shares < 1024 && t.tiles_x * t.tiles_y * a.B * t.shares < kBlocks) t.shares *= 2;
    return t;
}

// The pixel of this thread in a tile.
struct Place {
    std::int64_t b;
    int x, y, lane;
    bool exists;

    __device__ __forceinline__ Place(const WarpArguments& a, const Tiling& t, std::int64_t tile) {
        const std::int64_t tiles = t.tiles_x * t.tiles_y;
        b = tile / tiles;
        const int number = static_cast<int>(tile % tiles), pixel = threadIdx.x / t.lanes;
        lane = threadIdx.x % t.lanes;
        x = static_cast<int>(number % t.tiles_x) * t.width + pixel % t.width;
        y = static_cast<int>(number / t.tiles_x) * t.height + pixel / t.width;
        exists = x < a.W && y < a.H;
    }
};

// The channels of this thread: begin, begin + step, ... below end.
struct Channels {
    std::int64_t begin, end, step;

    __device__ __forceinline__ Channels(const WarpArguments& a, const Tiling& t, const Place& place, int vector) {
        const std::int64_t first = blockIdx.y * a.C / t.shares;
        begin = first + place.lane * vector;
        end = (blockIdx.y + 1) * a.C / t.shares;
        step = static_cast<std::int64_t>(t.lanes) * vector;
    }
};

// The taps of this thread's pixel; where it is alive, they all lie inside the source.
template <int n>
__device__ __forceinline__ Taps<float, n> locate(const WarpArguments& a, std::int64_t b, int x, int y) {
    Taps<float, n> taps = Source<float>(a, b).taps<n>(static_cast<float>(x), static_cast<float>(y));
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
