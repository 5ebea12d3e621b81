// What the pixels of a tile hold in shared memory for the gradients of key and value: their rows of query and grad_out,
// and the weights of their windows' taps.
#pragma once
#include "homography_align/cuda/window.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kLanes = 4;  // lanes per pixel
using BackwardTile = Tile<kLanes>;
constexpr int kPixels = BackwardTile::kPixels;
constexpr int kElsewhere = -(1 << 30);  // the corner of a window that no tap comes near

// The weights of all taps of a tile's windows: gamma multiplies query, beta multiplies grad_out. Rows are padded so
// that the lanes of a warp write to 32 different banks.
template <int R>
struct Weights {
    static constexpr int kTaps = (R + 1) * (R + 1), kStride = kTaps % 8 == 4 ? kTaps : kTaps + 4;
    float gamma[kPixels][kStride], beta[kPixels][kStride];
    int left[kPixels], top[kPixels];

    // The columns of a row of taps are dealt to the lanes of the pixel: lane, lane + kLanes, ...
    static constexpr int kOwn = (R + kLanes) / kLanes;
    static __device__ __forceinline__ void own_columns(float (&own)[kOwn], const float (&row)[R + 1]) {
        const int lane = threadIdx.x % kLanes;
#pragma unroll
        for (int i = 0; i <= R; ++i)
            if (i % kLanes == 0 || i % kLanes == lane) own[i / kLanes] = row[i];
    }
    __device__ __forceinline__ void put_row(int a, const float (&own_gamma)[kOwn], const float (&own_beta)[kOwn]) {
        const int pixel = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const int column = i * kLanes + lane;
            if (column > R) break;
            gamma[pixel][a * (R + 1) + column] = own_gamma[i];
            beta[pixel][a * (R + 1) + column] = own_beta[i];
        }
    }
    __device__ __forceinline__ void put_corner(int pixel, const Window<R>& w, bool use) {
        if (threadIdx.x % kLanes) return;
        left[pixel] = use ? w.left : kElsewhere;
        top[pixel] = use ? w.top : kElsewhere;
    }
};

// One slice of every pixel's rows of query and grad_out, widened to float32 once because they are read many times. For
// float16 / bfloat16 the first four channels of all packs come first, then the last four. The stride lets the lanes of
// two pixels read 32 different banks.
template <typename Element>
struct Staged {
    static constexpr int kPacks = kSlicePacks<Element, kLanes>, kQuads = kPack<Element> / 4;
    static constexpr int kStride = kPacks * kQuads % 8 == 4 ? kPacks * kQuads : kPacks * kQuads + 4;
    float4 query[kPixels][kStride], grad_out[kPixels][kStride];

    static __device__ __forceinline__ void put(float4* row, int pack, const float (&from)[kPack<Element>]) {
#pragma unroll
        for (int i = 0; i < kQuads; ++i)
            row[i * kPacks + pack] = make_float4(from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]);
    }
    static __device__ __forceinline__ void get(float (&to)[kPack<Element>], const float4* row, int pack) {
#pragma unroll
        for (int i = 0; i < kQuads; ++i) {
            const float4 quad = row[i * kPacks + pack];
            to[4 * i] = quad.x;
            to[4 * i + 1] = quad.y;
            to[4 * i + 2] = quad.z;
            to[4 * i + 3] = quad.w;
        }
    }
};

// One pixel's row of query or grad_out: the packs of the slice are staged, the others stay in global memory. Addresses
// are computed when they are needed, because registers are scarce.
template <typename Element>
struct StagedRow {
    const Image& image;
    int b, v, x, y, channel, packs, begin;

    __device__ __forceinline__ const Element* from(int pack) const {
        return pixel_at<Element>(image, b, v, x, y, channel) + pack * kPack<Element>;
    }
    // Called by all lanes of the pixel.
    __device__ __forceinline__ void stage(float4* to) const {
#pragma unroll
        for (int j = 0; j < kHeld<Element, kLanes>; ++j) {
            const int at = threadIdx.x % kLanes + j * kLanes;
            if (begin + at >= packs) break;
            float values[kPack<Element>];
            unpack<Element>(load_packed(from(begin + at)), values);
            Staged<Element>::put(to, at, values);
        }
    }
    // A lane may ask only for the packs that it staged itself: there is no barrier in between.
    __device__ __forceinline__ void get(float (&to)[kPack<Element>], const float4* staged, int pack) const {
        const unsigned at = pack - begin;
        if (at < Staged<Element>::kPacks)
            Staged<Element>::get(to, staged, at);
        else
            unpack<Element>(load_packed(from(pack)), to);
    }
};

// t[b] += <pack, tap b of a line> for the packs `first`, `first` + `step`, ... of a row and the taps that take part.
template <typename Element, int R>
__device__ __forceinline__ void dot_packs(float (&t)[R + 1], const StagedRow<Element>& row, const float4* staged,
                                          const Element* line, const Taps<Element, R>& taps, const Window<R>& w,
                                          int first, int step) {
#pragma unroll 1
    for (int pack = first; pack < row.packs; pack += step) {
        float own[kPack<Element>];
        row.get(own, staged, pack);
#pragma unroll
        for (int b = 0; b <= R; ++b)
            if (w.has_column(b))
                t[b] = dot<Element>(own, load_packed(line + pack * kPack<Element> + taps.offset(b)), t[b]);
    }
}

// As the dot_row of window.h. Of float32, products are added in the order of the forward, so that the dot products have
// the same bits: the forward deals rows of more than one slice to kWideLanes lanes.
template <typename Element, int R>
__device__ __forceinline__ void dot_row(float (&t)[R + 1], const StagedRow<Element>& row, const float4* staged,
                                        const Taps<Element, R>& taps, const Window<R>& w, int a, bool wide) {
    static_assert(kWideLanes == 4 * kLanes, "each lane takes the place of four");
    const int lane = threadIdx.x % kLanes;
#pragma unroll
    for (int b = 0; b <= R; ++b) t[b] = 0;
    if (w.has_row(a)) {
        const Element* line = taps.line(a);
        if (sizeof(Element) == 4 && wide) {
#pragma unroll 1
            for (int part = lane; part < 2 * kLanes; part += kLanes) {
                float sum[R + 1] = {}, other[R + 1] = {};
                dot_packs(sum, row, staged, line, taps, w, part, kWideLanes);
                dot_packs(other, row, staged, line, taps, w, part + 2 * kLanes, kWideLanes);
#pragma unroll
                for (int b = 0; b <= R; ++b) t[b] += sum[b] + other[b];
            }
        } else {
            dot_packs(t, row, staged, line, taps, w, lane, kLanes);
        }
    }
    all_reduce_lanes<kLanes>(t);
}

// sums += weight * a staged row.
template <typename Element>
__device__ __forceinline__ void add_staged(Sums<Element, kLanes>& sums, float weight, const float4* staged) {
    sums.for_each([&](int pack, float (&sum)[kPack<Element>]) {
        float own[kPack<Element>];
        Staged<Element>::get(own, staged, pack - sums.begin);
#pragma unroll
        for (int k = 0; k < kPack<Element>; ++k) sum[k] += weight * own[k];
    });
}

// What key and value at source pixel (x, y) receive from the target pixels of the tile, added in a fixed order. The
// lanes of the source pixel share its packs.
template <typename Element, int R>
__device__ __forceinline__ void collect(Sums<Element, kLanes>& key, Sums<Element, kLanes>& value,
                                        const Weights<R>& weights, const Staged<Element>& staged, int x, int y) {
#pragma unroll 1
    for (int i = 0; i < kPixels; ++i) {
        const unsigned column = x - weights.left[i], row = y - weights.top[i];
        if (column > R || row > R) continue;
        const int tap = row * (R + 1) + column;
        const float gamma = weights.gamma[i][tap], beta = weights.beta[i][tap];
        add_staged<Element>(key, gamma, staged.query[i]);
        add_staged<Element>(value, beta, staged.grad_out[i]);
    }
}

// The index of a head's first channel in a dense (views, height, width, heads, channels) gradient.
__device__ __forceinline__ std::int64_t dense_index(std::int64_t view, std::int64_t height, std::int64_t width, int y,
                                                    int x, int head, int heads, int channels) {
    return (((view * height + y) * width + x) * heads + head) * channels;
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
