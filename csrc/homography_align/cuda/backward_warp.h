// What the two kernels of the tensor core backward share: tiles of 4 x 4 target pixels, a warp's box of source pixels,
// and how the weights of taps lie in memory between the kernels.
#pragma once
#include "homography_align/cuda/differentiate.h"
#include "homography_align/cuda/mma_rows.h"
#include "homography_align/cuda/warp_box.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

inline std::int64_t mma_tiles_across(std::int64_t W) { return (W + kSide - 1) / kSide; }

// The most source pixels that a box may have.
template <int R>
constexpr int kBox = R == 3 ? 96 : 128;

// Rows of taps of each of the two lanes that share a pixel, and the taps in them.
template <int R>
constexpr int kHalf = (R + 1) / 2;
template <int R>
constexpr int kHalfTaps = kHalf<R> * (R + 1);

// A tile of one head and where its results lie.
struct WarpTile {
    int view, b, v, head, tile, x, y;  // view counts over all batches
};

// The lane's place. In products it holds the rows `group` and `group` + 8 and the columns of `quad`. Elsewhere two
// lanes share `pixel`, and the second has the lower rows of its window.
struct Lane {
    int index = threadIdx.x % 32, group = index / 4, quad = index % 4;
    int pixel = index % kRows, second = index / kRows;
};

// The lane's rows of its pixel's window, and where they lie in the box.
template <int R>
struct HalfWindow {
    const Window<R>& w;
    int first_row, at, width;

    __device__ __forceinline__ HalfWindow(const Window<R>& w, const WarpBox& box, const Lane& lane)
        : w(w),
          first_row(lane.second * kHalf<R>),
          at((w.top - box.top + first_row) * box.width + w.left - box.left),
          width(box.width) {}
    __device__ __forceinline__ bool has_tap(int row, int i) const {
        return w.has_row(first_row + row) && w.has_column(i);
    }
    __device__ __forceinline__ int box_index(int row, int i) const { return at + row * width + i; }
};

// Channels of a head at 16 target pixels, as products take them: of the rows `group` and `group` + 8.
template <int packs>
struct Fragment {
    unsigned upper[packs], lower[packs];
};

// The index of the first tap of a tile in AlignMmaBackwardArguments::taps; `part` is 0 for key and 1 for value.
template <int R>
__device__ __forceinline__ std::int64_t tap_index(const AlignArguments& a, int view, int slot, int tiles, int tile,
                                                  int head, int part) {
    const std::int64_t at = (view * a.N + slot) * tiles + tile;
    return ((at * a.heads + head) * 2 + part) * (kRows * 2 * kHalfTaps<R>);
}

// Moves a lane's taps in pieces that are as large as their alignment allows.
template <int R>
constexpr int kTapPiece = kHalfTaps<R> % 8 == 0 ? 8 : 2;

// Offsets are counted in bytes and fit 32 bits, which takes the fewest instructions.
template <typename Element>
__device__ __forceinline__ const Element* moved(const Element* from, int bytes) {
    return reinterpret_cast<const Element*>(reinterpret_cast<const char*>(from) + bytes);
}

// The rows of 16 pixels, four of which this lane loads, as the second factor of products: a piece of n packs
// makes n products, and lane 4 g + j holds channels n g to n g + n - 1 of the pixels 2 j, 2 j + 1, 2 j + 8 and
// 2 j + 9.
template <typename Element, int packs>
__device__ __forceinline__ void load_columns(unsigned (&to)[packs][2], const Element* const (&from)[4]) {
    const int group = threadIdx.x % 32 / 4;
    for_each_piece<packs, 8>([&](auto first, auto n) {
        if constexpr (n == 1) {
            unsigned channel[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                channel[i] = __ldg(reinterpret_cast<const unsigned short*>(from[i] + 8 * first + group));
            to[first][0] = lower_halves(channel[0], channel[1]);
            to[first][1] = lower_halves(channel[2], channel[3]);
        } else {
            Words<n / 2> words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) words[i] = load_words<n / 2>(from[i] + 8 * first + n * group);
#pragma unroll
            for (int i = 0; i < n / 2; ++i) {
                const unsigned a = words[0].word[i], b = words[1].word[i], c = words[2].word[i], d = words[3].word[i];
                to[first + 2 * i][0] = lower_halves(a, b);
                to[first + 2 * i][1] = lower_halves(c, d);
                to[first + 2 * i + 1][0] = upper_halves(a, b);
                to[first + 2 * i + 1][1] = upper_halves(c, d);
            }
        }
    });
}

// Calls f(Element, the window and the packs of a head as std::integral_constant); false where there is no kernel.
template <typename Element, typename R, typename F>
bool with_head(int packs, const F& f) {
    switch (packs) {
        case 2:
            return f(Element{}, R{}, std::integral_constant<int, 2>()), true;
        case 4:
            return f(Element{}, R{}, std::integral_constant<int, 4>()), true;
        case 5:
            return f(Element{}, R{}, std::integral_constant<int, 5>()), true;
        case 8:
            return f(Element{}, R{}, std::integral_constant<int, 8>()), true;
        default:
            return false;
    }
}
template <typename Element, typename F>
bool with_mma_window(const PackedAlignArguments& a, const F& f) {
    if (a.window == 3) return with_head<Element, std::integral_constant<int, 3>>(a.key_packs, f);
    if (a.window == 5) return with_head<Element, std::integral_constant<int, 5>>(a.key_packs, f);
    return false;
}
template <typename F>
bool with_mma_kernel(const PackedAlignArguments& a, const F& f) {
    if (a.key_packs != a.value_packs) return false;
    if (a.dtype == Scalar::bfloat16) return with_mma_window<bfloat16>(a, f);
    return a.dtype == Scalar::float16 && with_mma_window<float16>(a, f);
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
