// How target pixels and channels are distributed over blocks and threads.
//
// A block takes a tile of pixels of one image, and of their channels the share that blockIdx.y names. Channels last: a
// group of lanes takes a pixel, each lane 16 bytes of channels. Planes: a lane takes a pixel, a warp takes 32 pixels of
// a row and goes through the channels of its share. Whatever a thread has to divide by is a power of two or a Divisor:
// an integer division costs as much as the interpolation.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <limits>

#include "cuda/device.h"
#include "homography_warp/taps.h"

namespace vsad {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kVectorBytes = 16;
constexpr int kRowWidth = 32, kSquareWidth = 8;  // widths of tiles, in pixels
constexpr std::int64_t kBlocks = 16 * 132;       // enough to fill a GPU; with fewer, blocks share the channels too
// In the backward a block takes this many tiles before it reduces the homography's gradient once.
constexpr int kTilesPerBlock = 8;

// Divides numbers from 0 to 2^31 - 1 by a multiplication: with 2^(r - 1) < divisor <= 2^r, the multiplier is
// 2^(31 + r) / divisor rounded up, and the error of the rounding is too small to reach the next quotient.
struct Divisor {
    unsigned divisor, multiplier, shift;

    Divisor() = default;
    explicit Divisor(std::int64_t d) : divisor(static_cast<unsigned>(d)), multiplier(0), shift(0) {
        if (d <= 1) return;
        int r = 0;
        while ((std::int64_t(1) << r) < d) ++r;
        multiplier = static_cast<unsigned>(((std::uint64_t(1) << (31 + r)) + d - 1) / d);
        shift = static_cast<unsigned>(r - 1);
    }

    __device__ __forceinline__ unsigned divide(unsigned number) const {
        return divisor <= 1 ? number : __umulhi(number, multiplier) >> shift;
    }
};

struct Tiling {
    int lane_bits, width_bits;  // logarithms of the number of lanes that share a pixel, and of the tile's width
    int height;                 // of the tile in pixels
    std::int64_t tiles_x, tiles_y;
    std::int64_t shares, share_channels;  // number of parts that the channels are divided into, and the size of a part
    bool packed;                          // whether kVectorBytes of channels are read at once
    Divisor by_tiles_x, by_blocks;        // blocks of one image

    __host__ __device__ int lanes() const { return 1 << lane_bits; }
    __host__ __device__ int width() const { return 1 << width_bits; }
    std::int64_t blocks(int tiles_per_block) const {
        return (tiles_x * tiles_y + tiles_per_block - 1) / tiles_per_block;
    }
    dim3 grid(const WarpArguments& a, int tiles_per_block = 1) const {
        return dim3(static_cast<unsigned>(blocks(tiles_per_block) * a.B), static_cast<unsigned>(shares));
    }
};

inline bool aligned(const ImageView& image, std::int64_t vector, std::int64_t bytes) {
    return image.channel == 1 && reinterpret_cast<std::uintptr_t>(image.data) % (vector * bytes) == 0 &&
           image.batch % vector == 0 && image.y % vector == 0 && image.x % vector == 0;
}

// Whether the offsets of an image's pixels, counted in vectors, fit in 32 bits.
inline bool near(const ImageView& image, std::int64_t height, std::int64_t width, std::int64_t vector) {
    const std::int64_t y = image.y < 0 ? -image.y : image.y, x = image.x < 0 ? -image.x : image.x;
    return (y * height + x * width) / vector < std::numeric_limits<std::int32_t>::max();
}

// At most `most_lanes` lanes share a pixel. `whole_tile` says that the lanes of all threads count as pixels of the
// tile, which they take in several passes; otherwise each group of lanes takes one pixel.
template <typename Element>
Tiling tile(const WarpArguments& a, std::initializer_list<const ImageView*> images, int most_lanes, int width,
            int tiles_per_block, bool whole_tile) {
    constexpr std::int64_t vector = kVectorBytes / sizeof(Element);
    bool packed = a.C % vector == 0 && near(a.input, a.Hs, a.Ws, vector), channels_last = a.C > 1;
    for (const ImageView* image : images) {
        packed = packed && aligned(*image, vector, sizeof(Element));
        channels_last = channels_last && image->channel == 1;
    }
    Tiling t{};
    t.packed = packed;
    const std::int64_t step = packed ? vector : 1;
    if (channels_last)
        while (t.lanes() < most_lanes && t.lanes() < a.C / step) ++t.lane_bits;
    else
        width = kRowWidth;
    while (t.width() < width) ++t.width_bits;
    t.height = kThreads / t.width() / (whole_tile ? 1 : t.lanes());
    t.tiles_x = (a.W + t.width() - 1) / t.width();
    t.tiles_y = (a.H + t.height - 1) / t.height;
    t.by_tiles_x = Divisor(t.tiles_x);
    t.by_blocks = Divisor(t.blocks(tiles_per_block));
    // The channels that all lanes of a pixel take at once stay together.
    const std::int64_t chunk = step * t.lanes(), chunks = (a.C + chunk - 1) / chunk;
    const std::int64_t tiles = t.tiles_x * t.tiles_y * a.B;
    const std::int64_t most_shares = std::clamp<std::int64_t>(tiles ? kBlocks / tiles : 1, 1, 1024);
    t.share_channels = (chunks + most_shares - 1) / most_shares * chunk;
    t.shares = t.share_channels ? (a.C + t.share_channels - 1) / t.share_channels : 1;
    return t;
}

// The channels of this block's share: from begin, below end.
struct Share {
    std::int64_t begin, end;

    __device__ __forceinline__ Share(const WarpArguments& a, const Tiling& t)
        : begin(blockIdx.y * t.share_channels), end(begin + t.share_channels < a.C ? begin + t.share_channels : a.C) {}
};

// The upper left pixel of a tile.
struct Corner {
    int x, y;

    __device__ __forceinline__ Corner(const Tiling& t, unsigned tile) {
        const unsigned row = t.by_tiles_x.divide(tile);
        x = static_cast<int>(tile - row * static_cast<unsigned>(t.tiles_x)) << t.width_bits;
        y = static_cast<int>(row) * t.height;
    }
};

// The taps of this thread's pixel; where it is alive, they all lie inside the source.
template <int n>
__device__ __forceinline__ Taps<float, n> locate(const WarpArguments& a, std::int64_t b, int x, int y) {
    Taps<float, n> taps = Source<float>(a, b).taps<n>(static_cast<float>(x), static_cast<float>(y));
    const int last_x = static_cast<int>(a.Ws - 1), last_y = static_cast<int>(a.Hs - 1);
    const bool inside =
        taps.x.index[0] >= 0 && taps.x.index[n - 1] <= last_x && taps.y.index[0] >= 0 && taps.y.index[n - 1] <= last_y;
    if (a.padding == Padding::zeros && !inside)
        taps.alive = taps.alive && move_inside(taps.x, last_x) && move_inside(taps.y, last_y);
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
