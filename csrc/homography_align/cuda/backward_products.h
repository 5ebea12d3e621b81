// The dot products of the tensor core backward's first kernel: of a warp's 16 target pixels with the box of source
// pixels that their windows touch; from them the taps and cells of every window, and the softmax of every pixel.
#pragma once
#include "homography_align/cuda/backward_warp.h"
#include "homography_align/cuda/forward_pixel.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kBackwardWarps = 4;
constexpr int kAllPixels = -1;

// Slots whose taps a warp keeps between its two turns; where there are more, and for windows of 5, the second turn
// multiplies again.
template <int R>
constexpr int kKeptSlots = R == 3 ? 4 : 1;

// A warp's part of shared memory. Strides are chosen so that its lanes use different banks.
template <int R>
struct Strip {
    static constexpr int kSums = R * R + 9, kStride = kSums | 1, kTapStride = R == 3 ? 20 : 38;
    struct Taps {
        float key[kRows][kTapStride], value[kRows][kTapStride];  // the dot products with the taps of every window
    };
    // Dot products of all pixels with all of the box; in the second turn then the gammas.
    float products[kRows][kBox<R> + 8];
    union Slot {
        Taps taps;
        float sums[kRows][kStride];  // then: gradients of a pixel's logits and of the homography
    } slots[kKeptSlots<R>];
    int key_at[kBox<R>], value_at[kBox<R>];  // offsets of the box's pixels from its corner, in bytes
};

// Everything that a warp knows of its call but the softmax. `only` is the one pixel that is looked at, or kAllPixels.
template <typename Element, int R, int packs>
struct WarpCall {
    const AlignMmaBackwardArguments& g;
    const WarpTile& tile;
    Strip<R>& s;
    Lane lane;
    Fragment<packs> query, grad_out;
    int tiles, only;

    __device__ __forceinline__ int channel() const { return tile.head * packs * kPack<Element>; }
    __device__ __forceinline__ int x() const { return tile.x + lane.pixel % kSide; }
    __device__ __forceinline__ int y() const { return tile.y + lane.pixel / kSide; }
    __device__ __forceinline__ bool exists() const { return x() < g.forward.W && y() < g.forward.H; }
    __device__ __forceinline__ bool keeps_taps() const {
        return kKeptSlots<R> > 1 && only == kAllPixels && g.forward.N <= kKeptSlots<R>;
    }
    __device__ __forceinline__ typename Strip<R>::Slot& place(int slot) const {
        return s.slots[keeps_taps() ? slot : 0];
    }
    __device__ __forceinline__ Window<R> window(int slot) const {
        const PackedAlignArguments& a = g.forward;
        const bool looked_at = only == kAllPixels || lane.pixel == only;
        return Window<R>(a, homography_of(a, tile.b, tile.v, slot), x(), y(), exists() && looked_at);
    }
};

// The softmax of the lane's pixel; both of its lanes hold it.
struct PixelSoftmax {
    float peak, log_sum, inner;  // inner is <grad_out, out>; the peak is 0 where no cell is valid
};

template <int packs, typename Element>
__device__ __forceinline__ void load_fragment(Fragment<packs>& to, const Image& image, const AlignArguments& a,
                                              const WarpTile& tile, const Lane& lane, int channel) {
    const int x = tile.x + lane.group % kSide, y = tile.y + lane.group / kSide;
    to = {};
    if (x < a.W && y < a.H) load_row(to.upper, pixel_at<Element>(image, tile.b, tile.v, x, y, channel));
    if (x < a.W && y + 2 < a.H) load_row(to.lower, pixel_at<Element>(image, tile.b, tile.v, x, y + 2, channel));
}

// Leaves the offsets of the box's pixels. Beyond the source's border its border pixels repeat, and beyond the box its
// last pixel, up to a full turn of multiply_box.
template <int R>
__device__ __forceinline__ void put_offsets(Strip<R>& s, const AlignArguments& a, const WarpBox& box, int element_bytes,
                                            const Lane& lane) {
    const int count = box.width * box.height;
    const int last_row = static_cast<int>(a.Hs) - 1 - box.top, last_column = static_cast<int>(a.Ws) - 1 - box.left;
    const int key_y = static_cast<int>(a.key.y) * element_bytes, key_x = static_cast<int>(a.key.x) * element_bytes;
    const int value_y = static_cast<int>(a.value.y) * element_bytes;
    const int value_x = static_cast<int>(a.value.x) * element_bytes;
    const float inverse = 1.f / static_cast<float>(box.width);
#pragma unroll 1
    for (int i = lane.index; i < (count + 31) / 32 * 32; i += 32) {
        const int at = i < count ? i : count - 1;
        // Integer division: at + 1/2 lies further from a multiple of the width than rounding reaches.
        const int row = static_cast<int>((static_cast<float>(at) + 0.5f) * inverse), column = at - row * box.width;
        const int at_y = row < last_row ? row : last_row, at_x = column < last_column ? column : last_column;
        s.key_at[i] = at_y * key_y + at_x * key_x;
        s.value_at[i] = at_y * value_y + at_x * value_x;
    }
}

// to = the dot products of all the warp's pixels and all of the box. 32 source pixels are loaded at once, because the
// warp waits for each turn of loads.
template <typename Element, int packs, int columns>
__device__ __forceinline__ void multiply_box(float (&to)[kRows][columns], const Fragment<packs>& own,
                                             const Element* from, const int* at, int count, const Lane& lane) {
    constexpr int kGroups = packs <= 5 ? 4 : 2;
#pragma unroll 1
    for (int i = 0; i < count; i += 8 * kGroups) {
        unsigned row[kGroups][packs];
#pragma unroll
        for (int j = 0; j < kGroups; ++j) load_row(row[j], moved(from, at[i + 8 * j + lane.group]));
#pragma unroll
        for (int j = 0; j < kGroups; ++j) {
            float sum[4] = {};
            multiply_rows<packs, Element>(sum, own.upper, own.lower, row[j]);
            const int column = i + 8 * j + 2 * lane.quad;
            *reinterpret_cast<float2*>(&to[lane.group][column]) = make_float2(sum[0], sum[1]);
            *reinterpret_cast<float2*>(&to[lane.group + 8][column]) = make_float2(sum[2], sum[3]);
        }
    }
}

// The lane's taps out of a box; those that take no part count as zero.
template <int R, int columns>
__device__ __forceinline__ void pick_taps(float (&to)[kRows][Strip<R>::kTapStride], const float (&from)[kRows][columns],
                                          const HalfWindow<R>& half, const Lane& lane) {
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row) {
        float taps[R + 1];
#pragma unroll
        for (int i = 0; i <= R; ++i) taps[i] = half.has_tap(row, i) ? from[lane.pixel][half.box_index(row, i)] : 0;
        float* line = &to[lane.pixel][(half.first_row + row) * (R + 1)];
#pragma unroll
        for (int i = 0; i <= R; i += 2) *reinterpret_cast<float2*>(line + i) = make_float2(taps[i], taps[i + 1]);
    }
}

// Leaves the offsets of a box and the taps of one slot. Begins and ends with the warp in step.
template <typename Element, int R, int packs>
__device__ __forceinline__ void multiply_slot(const WarpCall<Element, R, packs>& c, int slot, int source,
                                              const Window<R>& w, const WarpBox& box) {
    const PackedAlignArguments& a = c.g.forward;
    const HalfWindow<R> half(w, box, c.lane);
    const int count = box.width * box.height;
    auto& taps = c.place(slot).taps;
    __syncwarp();  // everyone has read what the slot before left
    put_offsets(c.s, a, box, sizeof(Element), c.lane);
    __syncwarp();
    const auto* keys = pixel_at<Element>(a.key, c.tile.b, source, box.left, box.top, c.channel());
    const auto* values = pixel_at<Element>(a.value, c.tile.b, source, box.left, box.top, c.channel());
    multiply_box(c.s.products, c.query, keys, c.s.key_at, count, c.lane);
    __syncwarp();
    pick_taps(taps.key, c.s.products, half, c.lane);
    __syncwarp();
    multiply_box(c.s.products, c.grad_out, values, c.s.value_at, count, c.lane);
    __syncwarp();
    pick_taps(taps.value, c.s.products, half, c.lane);
    __syncwarp();
}

// A row of taps of the lane's pixel.
template <int R>
__device__ __forceinline__ void read_taps(TapRow<R>& to, const typename Strip<R>::Taps& from, const Lane& lane,
                                          int row) {
#pragma unroll
    for (int i = 0; i <= R; i += 2) {
        const float2 key = *reinterpret_cast<const float2*>(&from.key[lane.pixel][row * (R + 1) + i]);
        const float2 value = *reinterpret_cast<const float2*>(&from.value[lane.pixel][row * (R + 1) + i]);
        to.key[i] = key.x;
        to.key[i + 1] = key.y;
        to.value[i] = value.x;
        to.value[i + 1] = value.y;
    }
}

// As for_each_cell of differentiate.h, for the lane's cells.
template <typename Element, int R, int packs, typename Visit>
__device__ __forceinline__ void visit_cells(const WarpCall<Element, R, packs>& c, int slot, const HalfWindow<R>& half,
                                            const Visit& visit) {
    const PackedAlignArguments& a = c.g.forward;
    const float* bias = bias_of(a, c.tile.head, slot);
    const Window<R>& w = half.w;
    TapRow<R> upper;
    const typename Strip<R>::Taps& taps = c.place(slot).taps;
    read_taps(upper, taps, c.lane, half.first_row);
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row) {
        TapRow<R> lower;
        // The second lane has one row of cells less: what is read below its last row of taps does not count.
        const int below = half.first_row + row + 1;
        read_taps(lower, taps, c.lane, below < R ? below : R);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const int cell_row = half.first_row + row;
            const bool valid = w.cells.hold(cell_row, i);
            const float t = bilinear(w, upper.key[i], upper.key[i + 1], lower.key[i], lower.key[i + 1]);
            const float logit = logit_of(a.logit_scale, t, valid ? bias : nullptr, cell_row * R + i);
            const float value = bilinear(w, upper.value[i], upper.value[i + 1], lower.value[i], lower.value[i + 1]);
            visit(row, i, valid ? logit : kMinusInfinity, valid ? value : 0.f, upper, lower);
        }
        upper = lower;
    }
}

// Leaves what gather_mma.cu must know of the tile in a slot, the same for all heads.
template <typename Element, int R, int packs>
__device__ __forceinline__ void put_place(const WarpCall<Element, R, packs>& c, int slot, const Window<R>& w,
                                          const WarpBox& box) {
    const PackedAlignArguments& a = c.g.forward;
    const std::int64_t at = (c.tile.view * a.N + slot) * c.tiles + c.tile.tile;
    if (!c.lane.second)
        c.g.corners[at * kRows + c.lane.pixel] =
            w.has_valid_cell ? Corner{w.left, w.top} : Corner{kElsewhere, kElsewhere};
    const int last_x = static_cast<int>(a.Ws) - 1, last_y = static_cast<int>(a.Hs) - 1;
    const int right = box.left + box.width - 1, bottom = box.top + box.height - 1;
    if (c.lane.index == 0)
        c.g.boxes[at] = {box.left, box.top, right < last_x ? right : last_x, bottom < last_y ? bottom : last_y};
}

// Finds the softmax; false where a box is too large.
template <typename Element, int R, int packs>
__device__ __forceinline__ bool find_softmax(const WarpCall<Element, R, packs>& c, PixelSoftmax& found) {
    const PackedAlignArguments& a = c.g.forward;
    Softmax softmax;
    float inner = 0;  // not divided by the total yet
    bool fits = true;
    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, c.tile.v, slot);
        if (source < 0) continue;
        const Window<R> w = c.window(slot);
        if (!__any_sync(kWarp, w.has_valid_cell)) continue;
        const WarpBox box(w);
        if (c.g.boxes && c.tile.head == 0 && c.only == kAllPixels) put_place(c, slot, w, box);
        fits = fits && box.fits(kBox<R>);
        if (!fits) continue;
        multiply_slot(c, slot, source, w, box);

        float logits[kHalf<R>][R], values[kHalf<R>][R], highest = softmax.peak;
        visit_cells(c, slot, HalfWindow<R>(w, box, c.lane),
                    [&](int row, int i, float logit, float value, const TapRow<R>&, const TapRow<R>&) {
                        logits[row][i] = logit;
                        values[row][i] = value;
                        highest = logit > highest ? logit : highest;
                    });
        const float other = __shfl_xor_sync(kWarp, highest, kRows);
        highest = other > highest ? other : highest;
        const float shift = highest == kMinusInfinity ? 0.f : highest;  // nothing valid yet: exp(-inf - 0) = 0
        const float keep = exp_of(softmax.peak - shift);
        float part = 0, inner_part = 0;
#pragma unroll
        for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
            for (int i = 0; i < R; ++i) {
                const float weight = exp_of(logits[row][i] - shift);
                part += weight;
                inner_part += weight * values[row][i];
            }
        softmax.peak = highest;
        softmax.total = softmax.total * keep + (part + __shfl_xor_sync(kWarp, part, kRows));
        inner = inner * keep + (inner_part + __shfl_xor_sync(kWarp, inner_part, kRows));
    }
    found = {softmax.peak == kMinusInfinity ? 0.f : softmax.peak, softmax.log_sum(),
             softmax.total == 0 ? 0.f : inner / softmax.total};
    return fits;
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
