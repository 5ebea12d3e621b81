// What the forward and the backward of homography_align share: a tile of target pixels, the box of source pixels that
// its windows touch, and the few vector loops between them.
//
// Both are packed into scratch: in the compute dtype, channels last, every head padded with zeros to whole vectors, and
// the border's pixels repeated beyond it. So the loops know no dtype, no stride, no remainder and no border, and each
// source pixel is converted once for all the windows that read it.
#pragma once

#include "cpu/arena.h"
#include "cpu/homography_align.h"
#include "cpu/simd.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr int kTileSide = 16;
constexpr std::int64_t kBoxPixels = 512;          // 16 x 16 windows and their margins, at a scale near one
constexpr std::int64_t kScratchBytes = 12 << 20;  // of all threads together
constexpr std::int64_t kThreadBytes = 1 << 20;    // a core's second-level cache

struct Rectangle {
    int x, y, width, height;
    int area() const { return width * height; }
};

// A packed pixel: `heads` groups of `count` channels, each padded to `padded`.
struct Channels {
    int heads, count, padded;
    std::int64_t row() const { return std::int64_t(heads) * padded; }
};

// The sizes of a call. `heads` are processed together; `copies` counts the arrays that a pixel needs.
template <typename T>
struct Plan {
    int R, side, taps, padded_taps, padded_cells, margin;
    Channels key, value;
    int tile_width = kTileSide, tile_height = kTileSide;
    std::int64_t box_pixels, threads;

    Plan(const AlignArguments& a, int heads, int copies)
        : R(a.window),
          side(R + 1),
          taps(side * side),
          padded_taps(round_up<T>(R * side) + round_up<T>(side + 1)),
          padded_cells(round_up<T>(R * side)),
          margin(round_up<T>(side + 1)),
          key{heads, int(a.C / a.heads), round_up<T>(int(a.C / a.heads))},
          value{heads, int(a.Cv / a.heads), round_up<T>(int(a.Cv / a.heads))} {
        const std::int64_t pixel_bytes = greater<std::int64_t>(1, copies * (key.row() + value.row()) * sizeof(T));
        const std::int64_t least = (taps + 1) * pixel_bytes;  // one pixel and its box always fit
        threads = greater<std::int64_t>(1, lesser<std::int64_t>(a.threads, kScratchBytes / least));
        const std::int64_t pixels = lesser(kScratchBytes / threads, kThreadBytes) / pixel_bytes;
        while (tile_width * tile_height > greater<std::int64_t>(1, pixels / 4))
            (tile_width < tile_height ? tile_height : tile_width) /= 2;
        box_pixels = greater<std::int64_t>(taps, lesser(kBoxPixels, pixels - tile_pixels()));
    }

    std::int64_t cell_row() const { return margin + padded_taps; }
    int tile_pixels() const { return tile_width * tile_height; }
    std::int64_t tiles_across(const AlignArguments& a) const { return (a.W + tile_width - 1) / tile_width; }
    std::int64_t tiles(const AlignArguments& a) const {
        return tiles_across(a) * ((a.H + tile_height - 1) / tile_height);
    }
    Rectangle tile(const AlignArguments& a, std::int64_t index) const {
        const int x = int(index % tiles_across(a)) * tile_width, y = int(index / tiles_across(a)) * tile_height;
        return {x, y, lesser(tile_width, int(a.W) - x), lesser(tile_height, int(a.H) - y)};
    }
};

template <typename Element>
const Element* plane(const Image& image, std::int64_t batch, std::int64_t view, std::int64_t channel) {
    return reinterpret_cast<const Element*>(image.data) + batch * image.batch + view * image.view +
           channel * image.channel;
}

// Packs `width` pixels of a row whose channels lie apart: squares of kLanes pixels and channels, transposed
// in registers where pixels are neighbours; the last square overlaps the one before.
template <typename T, typename Element>
void pack_planes(T* to, const Element* from, const Image& strides, int width, std::int64_t row, int count) {
    constexpr int lanes = kLanes<T>;
    int c = 0;
    for (; strides.x == 1 && width >= lanes && c + lanes <= count; c += lanes)
        for (int x = 0; x < width; x += lanes) {
            const int at = lesser(x, width - lanes);
            Vector<T> square[lanes];
            for (int i = 0; i < lanes; ++i) square[i] = load_wide<T>(from + (c + i) * strides.channel + at);
            transpose<T>(square);
            for (int i = 0; i < lanes; ++i) store(to + (at + i) * row + c, square[i]);
        }
    for (; c < count; ++c)
        for (int x = 0; x < width; ++x) to[x * row + c] = widen(from[x * strides.x + c * strides.channel]);
}

// Packs `box` from `from` (pixel (0, 0) of an image of width x height). Beyond the border the border's pixels
// repeat: there every weight is zero, and the slope across the border is zero too.
template <typename T, typename Element>
void pack(T* to, const Element* from, const Image& strides, Rectangle box, std::int64_t width, std::int64_t height,
          Channels channels) {
    const std::int64_t row = channels.row();
    if (channels.count == channels.padded) channels = {1, int(row), int(row)};  // then heads need no telling apart
    const int begin = greater(0, -box.x), end = int(lesser<std::int64_t>(box.width, width - box.x));
    if (channels.count < channels.padded) fill(to, box.area() * row, T(0));
    for (int y = 0; y < box.height; ++y, to += box.width * row) {
        const std::int64_t source_y = lesser<std::int64_t>(greater(0, box.y + y), height - 1);
        const Element* line = from + source_y * strides.y + (box.x + begin) * strides.x;
        for (int head = 0; head < channels.heads; ++head) {
            T* packed = to + begin * row + head * channels.padded;
            const Element* first = line + std::int64_t(head) * channels.count * strides.channel;
            if (strides.channel != 1) {
                pack_planes(packed, first, strides, end - begin, row, channels.count);
                continue;
            }
            for (int x = 0; x < end - begin; ++x)
                for (int c = 0; c < channels.count; ++c) packed[x * row + c] = widen(first[x * strides.x + c]);
        }
        for (int x = 0; x < begin; ++x) __builtin_memcpy(to + x * row, to + begin * row, row * sizeof(T));
        for (int x = end; x < box.width; ++x) __builtin_memcpy(to + x * row, to + (end - 1) * row, row * sizeof(T));
    }
}

// Projects the pixels of a tile; false when none of their windows touches the source.
template <typename T>
bool project_tile(Window<T>* windows, Projection<T>* points, const AlignArguments& a, const T* H, Rectangle tile) {
    bool any = false;
    for (int y = 0; y < tile.height; ++y)
        for (int x = 0; x < tile.width; ++x, ++windows, ++points) {
            *points = project(H, T(tile.x + x), T(tile.y + y));
            *windows = window_at(*points, a.window / 2, int(a.Hs), int(a.Ws));
            any |= !windows->empty();
        }
    return any;
}

// Calls visit(part of the tile, box of source pixels its windows touch), for parts whose box fits the scratch
// and is mostly used. `part` is relative to the tile, whose width is the row length of `windows`.
template <typename T, typename Visit>
void for_each_box(const Window<T>* windows, int tile_width, Rectangle part, const Plan<T>& plan, const Visit& visit) {
    int left = 0, right = 0, top = 0, bottom = 0;
    std::int64_t used = 0;
    for (int y = part.y; y < part.y + part.height; ++y)
        for (int x = part.x; x < part.x + part.width; ++x) {
            const Window<T>& w = windows[y * tile_width + x];
            if (w.empty()) continue;
            left = used ? lesser(left, w.left) : w.left;
            right = used ? greater(right, w.left) : w.left;
            top = used ? lesser(top, w.top) : w.top;
            bottom = used ? greater(bottom, w.top) : w.top;
            used += plan.taps;
        }
    if (!used) return;
    const Rectangle box{left, top, right - left + plan.side, bottom - top + plan.side};
    const std::int64_t area = std::int64_t(box.width) * box.height;
    if (area <= plan.box_pixels && area <= 2 * used) return visit(part, box);
    Rectangle first = part, second = part;
    if (part.width >= part.height) {
        first.width /= 2;
        second.x += first.width;
        second.width -= first.width;
    } else {
        first.height /= 2;
        second.y += first.height;
        second.height -= first.height;
    }
    for_each_box(windows, tile_width, first, plan, visit);
    for_each_box(windows, tile_width, second, plan, visit);
}

// Where the taps of a window lie behind its first one; what pads them to whole vectors repeats the first.
template <typename T>
void tap_offsets(std::int64_t* offsets, const Plan<T>& plan, int box_width, std::int64_t row) {
    for (int tap = 0; tap < plan.padded_taps; ++tap)
        offsets[tap] = tap < plan.taps ? (std::int64_t(tap / plan.side) * box_width + tap % plan.side) * row : 0;
}

// One per cell: 1 where the cell is valid, else 0. The last column of each row of cells is never valid.
template <typename T>
void valid_cells(T* mask, const Plan<T>& plan, const Window<T>& w) {
    for (int row = 0; row < plan.R; ++row)
        for (int col = 0; col < plan.side; ++col)
            mask[row * plan.side + col] =
                row >= w.row_begin && row < w.row_end && col >= w.col_begin && col < w.col_end;
}

template <typename T>
void full_cells(T* mask, const Plan<T>& plan) {
    fill(mask, plan.padded_cells, T(0));
    valid_cells(mask, plan, {0, 0, 0, 0, 0, plan.R, 0, plan.R});
}

template <typename T>
void load_bias(T* cells, const AlignArguments& a, const Plan<T>& plan, int head, std::int64_t slot) {
    if (!a.bias) return;
    const T* bias = static_cast<const T*>(a.bias) + (head * a.N + slot) * plan.R * plan.R;
    for (int row = 0; row < plan.R; ++row)
        for (int col = 0; col < plan.R; ++col) cells[row * plan.side + col] = bias[row * plan.R + col];
}

// t[tap] = <row, box[tap]>
template <typename T>
VSAD_HD void dot_taps(T* t, const T* row, const T* box, const std::int64_t* offsets, const Plan<T>& plan,
                      int channels) {
    constexpr int lanes = kLanes<T>;
    for (int tap = 0; tap < plan.taps; tap += lanes) {
        Vector<T> sums[lanes] = {};
        for (int c = 0; c < channels; c += lanes) {
            const Vector<T> r = load(row + c);
            for (int i = 0; i < lanes; ++i) sums[i] += r * load(box + offsets[tap + i] + c);
        }
        store(t + tap, sum_rows<T>(sums));
    }
}

template <typename T, int vectors>
VSAD_HD void add_taps_block(T* sum, T keep, const T* weight, const T* box, const std::int64_t* offsets, int taps) {
    Vector<T> sums[vectors];
    for (int i = 0; i < vectors; ++i) sums[i] = keep * load(sum + i * kLanes<T>);
#pragma GCC unroll 4  // (R + 1)^2 taps: a multiple of 4
    for (int tap = 0; tap < taps; ++tap)
        for (int i = 0; i < vectors; ++i) sums[i] += weight[tap] * load(box + offsets[tap] + i * kLanes<T>);
    for (int i = 0; i < vectors; ++i) store(sum + i * kLanes<T>, sums[i]);
}

// sum = keep * sum + sum over taps of weight[tap] * box[tap]
template <typename T>
VSAD_HD void add_taps(T* sum, T keep, const T* weight, const T* box, const std::int64_t* offsets, int taps,
                      int channels) {
    constexpr int lanes = kLanes<T>;
    int c = 0;
    for (; c + 4 * lanes <= channels; c += 4 * lanes)
        add_taps_block<T, 4>(sum + c, keep, weight, box + c, offsets, taps);
    for (; c < channels; c += lanes) add_taps_block<T, 1>(sum + c, keep, weight, box + c, offsets, taps);
}

// Logits of the cells, -inf where there is no valid cell, from the taps' dot products.
template <typename T>
VSAD_HD Vector<T> logits_at(int cell, const T* t, const T* mask, const T* bias, const Weights<T>& w, T scale,
                            int side) {
    const Vector<T> dot =
        interpolate(w, load(t + cell), load(t + cell + 1), load(t + cell + side), load(t + cell + side + 1));
    return load(mask + cell) != 0 ? scale * dot + load(bias + cell) : broadcast(T(-__builtin_inf()));
}

// Taps from cells: `cells` must be zero in the margin before it and after its last valid cell.
template <typename T>
VSAD_HD void cells_to_taps(T* taps, const T* cells, const Weights<T>& w, const Plan<T>& plan) {
    for (int tap = 0; tap < plan.taps; tap += kLanes<T>)
        store(taps + tap, distribute(w, load(cells + tap), load(cells + tap - 1), load(cells + tap - plan.side),
                                     load(cells + tap - plan.side - 1)));
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
