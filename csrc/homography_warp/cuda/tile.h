// How target pixels and channels are shared out to blocks and threads.
//
// Channels last: a group of lanes takes a pixel, 16 bytes of channels a lane, and a block takes a tile 8 pixels wide,
// so that neighbours' taps meet in L1. Planes: a lane takes a pixel, a warp 32 beside each other, and goes through the
// channels of its share.
//
// Arithmetic, bilinear, a pixel of C channels of s bytes: 2 C s bytes of device memory (every source pixel read once,
// the other three taps come from L1), 8 C operations in float32, some 60 instructions to locate it, a lane each. An
// H200 moves 19 bytes a clock and multiprocessor and starts 128 instructions: at C = 64, bfloat16, 13 clocks of memory
// against 8 lanes x (60 + 4 loads of 16 bytes + 8 x (4 conversions + 6 multiply-adds)) / 128 = 9 clocks of issue, at
// float32 27 against 16 x (60 + 4 + 4 x 6) / 128 = 11. Memory binds; 70 to 85 % of a copy is expected. The backward
// moves grad_out and input once and adds 4 C floats a pixel in L2, 16 bytes an instruction: about 4 x 4 C bytes of L2
// atomics against 2 C s of memory, so that L2 (some 2.5 TB/s of red) binds: 16 C bytes at half the rate of a copy.
#pragma once
#include <initializer_list>

#include "homography_warp/cuda/locate.h"

namespace vsad {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kVectorBytes = 16;
constexpr int kPlaneWidth = 32, kPixelWidth = 8;  // of a tile
constexpr std::int64_t kBlocks = 4 * 132;         // enough to fill a GPU; below, planes share out their channels
constexpr int kTilesPerBlock = 8;                 // in the backward: one reduction of dH for so many

struct Tiling {
    int lanes;          // of a pixel
    int width, height;  // of a tile; lanes * width * height == kThreads
    std::int64_t tiles_x, tiles_y;
    std::int64_t shares;  // of the channels
    bool packed;          // kVectorBytes of channels are read at once

    dim3 grid(const WarpArguments& a, int tiles_per_block = 1) const {
        const std::int64_t tiles = (tiles_x * tiles_y + tiles_per_block - 1) / tiles_per_block * a.B;
        return dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(shares));
    }
};

inline bool aligned(const Picture& p, std::int64_t vector, std::int64_t bytes) {
    return p.channel == 1 && reinterpret_cast<std::uintptr_t>(p.data) % (vector * bytes) == 0 &&
           p.batch % vector == 0 && p.y % vector == 0 && p.x % vector == 0;
}

template <typename Element>
Tiling tile(const WarpArguments& a, std::initializer_list<const Picture*> pictures) {
    constexpr std::int64_t vector = kVectorBytes / sizeof(Element);
    bool packed = a.C % vector == 0, last = a.C > 1;
    for (const Picture* p : pictures) {
        packed = packed && aligned(*p, vector, sizeof(Element));
        last = last && p->channel == 1;
    }
    Tiling t{1, kPlaneWidth, kThreads / kPlaneWidth, 0, 0, 1, packed};
    if (last) {
        const std::int64_t packs = packed ? a.C / vector : a.C;
        while (t.lanes < 32 && t.lanes < packs) t.lanes *= 2;
        t.width = kPixelWidth;
        while (t.lanes * t.width > kThreads) t.width /= 2;
        t.height = kThreads / (t.lanes * t.width);
    }
    t.tiles_x = (a.W + t.width - 1) / t.width;
    t.tiles_y = (a.H + t.height - 1) / t.height;
    if (!last && t.tiles_x * t.tiles_y * a.B > 0)
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

// The channels of this thread: [begin, end) in steps.
struct Channels {
    std::int64_t begin, end, step;

    __device__ __forceinline__ Channels(const WarpArguments& a, const Tiling& t, const Place& place, int vector) {
        const std::int64_t first = blockIdx.y * a.C / t.shares;
        begin = first + place.lane * vector;
        end = (blockIdx.y + 1) * a.C / t.shares;
        step = static_cast<std::int64_t>(t.lanes) * vector;
    }
};

// Kernel::run<taps of an axis, channels read at once>(arguments...).
template <typename Kernel, typename Element, typename... Arguments>
void choose(Mode mode, const WarpArguments& a, const Tiling& tiling, Arguments... arguments) {
    constexpr int vector = kVectorBytes / sizeof(Element);
    const auto with = [&](auto n) {
        if (tiling.packed)
            Kernel::template run<n, vector>(a, tiling, arguments...);
        else
            Kernel::template run<n, 1>(a, tiling, arguments...);
    };
    if (mode == Mode::nearest) return with(std::integral_constant<int, 1>());
    if (mode == Mode::bilinear) return with(std::integral_constant<int, 2>());
    with(std::integral_constant<int, 4>());
}

}  // namespace cuda
}  // namespace vsad
