// What all heads of 4 x 4 target pixels share in one slot: where the pixels' windows lie, and the box of source pixels
// that they touch. A warp finds it once, in shared memory, for the warps of all heads of a block.
#pragma once
#include "homography_align/cuda/warp_box.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kBox = 128;  // the most source pixels that a box may have

// The window of a pixel. Bits of `valid`: from 0 on the rows of valid cells, from 8 on their columns, from 16 on the
// rows of taps that take part, from 24 on their columns.
struct alignas(16) Place {
    float fx, fy;
    int at;  // index of the first tap in the box
    unsigned valid;

    __device__ __forceinline__ bool holds(int row, int column) const {
        return (valid >> row & 1) && (valid >> (8 + column) & 1);
    }
    __device__ __forceinline__ bool has_tap(int row, int column) const {
        return (valid >> (16 + row) & 1) && (valid >> (24 + column) & 1);
    }
};

struct Outlook {
    Place places[kRows];
    unsigned key_at[kBox], value_at[kBox];  // offsets of the box's pixels from its corner, in bytes
    std::int64_t key_corner, value_corner;  // offsets of the corner in key and value
    int width, count;                       // of the box; count: its pixels, 0 when no window has a valid cell
    bool fits;                              // the box is not too large
    bool inside;                            // all cells of all windows are valid

    // Products take 16 source pixels at a time.
    __device__ __forceinline__ int steps() const { return (count + 15) / 16; }
};

// Bits begin to end - 1.
__device__ __forceinline__ unsigned interval_bits(int begin, int end) { return (1u << end) - (1u << begin); }

template <int R>
__device__ __forceinline__ unsigned valid_bits(const Window<R>& w) {
    if (!w.has_valid_cell) return 0;
    const Cells& c = w.cells;
    return interval_bits(c.row_begin, c.row_end) | interval_bits(c.col_begin, c.col_end) << 8 |
           interval_bits(c.row_begin, c.row_end + 1) << 16 | interval_bits(c.col_begin, c.col_end + 1) << 24;
}

// Leaves the offsets of the box's pixels. Beyond the source's border its border pixels repeat, and beyond the box its
// last pixel.
__device__ __forceinline__ void put_offsets(Outlook& o, const AlignArguments& a, const WarpBox& box, int lane) {
    const int count = box.width * box.height, key_y = static_cast<int>(a.key.y), key_x = static_cast<int>(a.key.x);
    const int value_y = static_cast<int>(a.value.y), value_x = static_cast<int>(a.value.x);
    const int last_row = static_cast<int>(a.Hs) - 1 - box.top, last_column = static_cast<int>(a.Ws) - 1 - box.left;
    const float inverse = 1.f / static_cast<float>(box.width);
    for (int i = lane; i < (count + 15) / 16 * 16; i += 32) {
        const int at = i < count ? i : count - 1;
        // Right for all at < kBox: (at + 1/2) / width is farther from an integer than its rounding errors.
        const int row = static_cast<int>((static_cast<float>(at) + 0.5f) * inverse), column = at - row * box.width;
        const int at_y = row < last_row ? row : last_row, at_x = column < last_column ? column : last_column;
        o.key_at[i] = 2u * (at_y * key_y + at_x * key_x);
        o.value_at[i] = 2u * (at_y * value_y + at_x * value_x);
    }
}

__device__ __forceinline__ std::int64_t corner_of(const Image& t, int b, int source, const WarpBox& box) {
    return b * t.batch + source * t.view + box.top * t.y + box.left * t.x;
}

// A warp's outlook from the kSide x kSide target pixels at (x, y) into a slot.
template <int R>
__device__ __forceinline__ void look(Outlook& o, const AlignArguments& a, int b, int v, int slot, int x, int y) {
    constexpr unsigned everything = (1u << R) - 1, every_tap = (2u << R) - 1;
    const int lane = threadIdx.x % 32, pixel = lane % kRows, source = source_of(a, v, slot);
    x += pixel % kSide;
    y += pixel / kSide;
    if (lane == 0) o.count = 0, o.fits = true;
    if (source < 0) return;
    const Window<R> w(a, homography_of(a, b, v, slot), x, y, x < a.W && y < a.H);
    if (!__any_sync(kWarp, w.has_valid_cell)) return;
    const WarpBox box(w);
    const unsigned valid = valid_bits(w);
    const bool fits = box.fits(kBox);
    const bool inside = __all_sync(kWarp, valid == (everything | everything << 8 | every_tap << 16 | every_tap << 24));
    if (lane == 0) {
        o.key_corner = corner_of(a.key, b, source, box);
        o.value_corner = corner_of(a.value, b, source, box);
        o.width = box.width;
        o.count = fits ? box.width * box.height : 1;
        o.fits = fits;
        o.inside = inside;
    }
    if (!fits) return;
    if (lane < kRows) o.places[lane] = {w.fx, w.fy, (w.top - box.top) * box.width + w.left - box.left, valid};
    put_offsets(o, a, box, lane);
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
