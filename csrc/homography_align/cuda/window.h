// The window of a target pixel in a source view: its taps, and the steps that every kernel takes with them.
//
// Taps and cells are visited row by row: the query is multiplied with one row of taps, neighbors in that row are mixed,
// and two such rows give the cells between them. This keeps few values in registers, and every window size runs the
// same short loop.
#pragma once
#include "homography_align/cuda/tile.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

// The source view in a slot; -1 when the slot is empty.
__device__ __forceinline__ int source_of(const AlignArguments& a, int v, int slot) {
    const std::int64_t source = a.neighbors[v * a.N + slot];
    return source >= 0 && source < a.S ? static_cast<int>(source) : -1;
}
__device__ __forceinline__ const float* homography_of(const AlignArguments& a, int b, int v, int slot) {
    return static_cast<const float*>(a.homography) + b * a.homography_batch + (v * a.N + slot) * 9;
}
// The R x R biases of a head and slot; null without a bias.
__device__ __forceinline__ const float* bias_of(const AlignArguments& a, int head, int slot) {
    if (!a.bias) return nullptr;
    return static_cast<const float*>(a.bias) + (head * a.N + slot) * a.window * a.window;
}
// Index of a pixel in a (B, V, heads, H, W) tensor such as the peak.
__device__ __forceinline__ std::int64_t pixel_index(const AlignArguments& a, int b, int v, int head, int x, int y) {
    return (((b * a.V + v) * a.heads + head) * a.H + y) * a.W + x;
}

// A window without a valid cell has no row and no column that takes part.
template <int R>
struct Window {
    Projection<float> point;
    float fx, fy;
    int left, top;  // position of the first tap
    Cells cells;
    bool has_valid_cell;

    __device__ __forceinline__ Window(const AlignArguments& a, const float* H, int x, int y, bool exists) {
        constexpr int radius = R / 2;
        point = project(H, static_cast<float>(x), static_cast<float>(y));
        const float last_x = static_cast<float>(a.Ws - 1), last_y = static_cast<float>(a.Hs - 1);
        // NaN fails every comparison, so it never reaches the conversion to integers below.
        const bool within_reach = exists && point.Z > 0 && point.x >= -radius && point.x <= last_x + radius &&
                                  point.y >= -radius && point.y <= last_y + radius;
        if (!within_reach) point = {0, 0, 1};
        cells = valid_cells(point.x, point.y, radius, static_cast<int>(a.Hs), static_cast<int>(a.Ws));
        has_valid_cell = within_reach && cells.row_begin < cells.row_end && cells.col_begin < cells.col_end;
        if (!has_valid_cell) cells = {1, -1, 1, -1};
        const float floor_x = round_down(point.x), floor_y = round_down(point.y);
        fx = point.x - floor_x;
        fy = point.y - floor_y;
        left = static_cast<int>(floor_x) - radius;
        top = static_cast<int>(floor_y) - radius;
    }
    // Whether a row or column of taps belongs to a valid cell; only such taps may be read.
    __device__ __forceinline__ bool has_row(int a) const { return a >= cells.row_begin && a <= cells.row_end; }
    __device__ __forceinline__ bool has_column(int b) const { return b >= cells.col_begin && b <= cells.col_end; }
};

// One head's taps of a window in key or value. Beyond the source's border the border pixels repeat: there every weight
// is zero, and so is the slope across the border.
template <typename Element, int R>
struct Taps {
    const Element* first;
    std::int64_t row_stride;
    int column_stride, last_row, last_column;

    __device__ __forceinline__ Taps(const Image& image, int b, int source, int channel, const AlignArguments& a,
                                    const Window<R>& w)
        : first(reinterpret_cast<const Element*>(image.data) + b * image.batch + source * image.view + w.top * image.y +
                w.left * image.x + channel),
          row_stride(image.y),
          column_stride(static_cast<int>(image.x)),
          last_row(static_cast<int>(a.Hs) - 1 - w.top),
          last_column(static_cast<int>(a.Ws) - 1 - w.left) {}
    __device__ __forceinline__ const Element* line(int a) const {
        return first + (a < last_row ? a : last_row) * row_stride;
    }
    __device__ __forceinline__ int offset(int b) const { return (b < last_column ? b : last_column) * column_stride; }
};

// t[b] += <pack, tap b of a line> for the taps that take part.
template <typename Element, int R>
__device__ __forceinline__ void dot_pack(float (&t)[R + 1], const uint4& pack, const Element* line,
                                         const Taps<Element, R>& taps, const Window<R>& w) {
    float own[kPack<Element>];
    unpack<Element>(pack, own);
#pragma unroll
    for (int b = 0; b <= R; ++b)
        if (w.has_column(b)) t[b] = dot<Element>(own, load_packed(line + taps.offset(b)), t[b]);
}

// t[b] = <row, tap (a, b)> in every lane of the pixel; zero for the taps that take no part.
template <typename Element, int kLanes, int R>
__device__ __forceinline__ void dot_row(float (&t)[R + 1], const Row<Element, kLanes>& row,
                                        const Taps<Element, R>& taps, const Window<R>& w, int a) {
    const int lane = row.lane();
#pragma unroll
    for (int b = 0; b <= R; ++b) t[b] = 0;
    if (w.has_row(a)) {
        const Element* line = taps.line(a);
#pragma unroll
        for (int j = 0; j < kHeld<Element, kLanes>; ++j) {
            const int pack = lane + j * kLanes;
            if (pack >= row.packs) break;
            dot_pack(t, still_packed(row.held[j]), line + pack * kPack<Element>, taps, w);
        }
        for (int pack = lane + kHeld<Element, kLanes> * kLanes; pack < row.packs; pack += kLanes)
            dot_pack(t, row.pack(pack), line + pack * kPack<Element>, taps, w);
    }
    all_reduce_lanes<kLanes>(t);
}

// sums += weights[b] * tap (a, b), over the taps of a row that take part.
template <typename Element, int kLanes, int R>
__device__ __forceinline__ void add_row(Sums<Element, kLanes>& sums, const float (&weights)[R + 1],
                                        const Taps<Element, R>& taps, const Window<R>& w, int a) {
    if (!w.has_row(a)) return;
    const Element* line = taps.line(a);
    sums.for_each([&](int pack, float (&to)[kPack<Element>]) {
#pragma unroll
        for (int b = 0; b <= R; ++b)
            if (w.has_column(b))
                add_scaled<Element>(to, weights[b], load_packed(line + pack * kPack<Element> + taps.offset(b)));
    });
}

// What the R + 1 taps of a row receive from the R cells between them.
template <int R>
__device__ __forceinline__ void spread(float (&taps)[R + 1], const float (&cells)[R], float fx) {
#pragma unroll
    for (int b = 0; b <= R; ++b) taps[b] = mix(fx, b < R ? cells[b] : 0.f, b > 0 ? cells[b - 1] : 0.f);
}

// The logit of a cell from its interpolated dot product; bias is null without one. One multiplication and one addition,
// which every kernel fuses: the backward must find the forward's bits where logits are large.
__device__ __forceinline__ float logit_of(float scale, float dot_product, const float* bias, int cell) {
    return scale * dot_product + (bias ? bias[cell] : 0.f);
}

template <int n>
__device__ __forceinline__ void mix_rows(float (&to)[n], float f, const float (&a)[n], const float (&b)[n]) {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = mix(f, a[i], b[i]);
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
