// Images as planes: lanes are neighboring pixels, and every channel of a box is a plane of rows.
#pragma once

#include "homography_align/cpu/pack.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// Planes of `channels` channels; `pitch` from row to row, a multiple of the lanes.
struct Planes {
    int channels, rows, pitch;
    // From plane to plane; a cache line more than the rows take, because planes a power of two apart would share a few
    // sets of the cache.
    std::int64_t plane() const { return std::int64_t(rows) * pitch + 16; }
    std::int64_t size() const { return channels * plane(); }
};

template <typename T, typename Element>
VSAD_HD Vector<T> load_lanes(const Element* from) {
    if constexpr (kNarrow<Element>)
        return load_row<Element, kLanes<T>>(from);
    else
        return load(from);
}
template <typename T, typename Element>
VSAD_HD void store_lanes(Element* to, Vector<T> v) {
    if constexpr (kNarrow<Element>)
        store_row<Element, kLanes<T>>(to, v);
    else
        store(to, v);
}

// Calls visit(begin) for blocks of lanes that cover `count` >= kLanes elements; the last overlaps the one before.
template <typename T, typename Visit>
VSAD_HD void for_each_block(int count, const Visit& visit) {
    for (int at = 0; at < count; at += kLanes<T>) visit(lesser(at, count - kLanes<T>));
}

// Spreads a row of `width` pixels to the planes that begin at `to`. Returns zero, or NaN where one is not finite.
template <typename T, typename Element>
Vector<T> row_to_planes(T* to, std::int64_t plane, const Element* from, const Image& strides, int width, int channels) {
    const std::int64_t step = strides.x;
    Vector<T> finite = {};
    if (strides.channel == 1 && width >= kLanes<T> && channels >= kLanes<T>) {
        for_each_block<T>(width, [&](int x) {
            for_each_block<T>(channels, [&](int c) {
                Vector<T> block[kLanes<T>];
                const Element* pixel = from + x * step + c;
                for (int i = 0; i < kLanes<T>; ++i, pixel += step) {
                    block[i] = load_lanes<T>(pixel);
                    finite += T(0) * block[i];
                }
                transpose<T>(block);
                T* row = to + c * plane + x;
                for (int i = 0; i < kLanes<T>; ++i, row += plane) store(row, block[i]);
            });
        });
        return finite;
    }
    for (int c = 0; c < channels; ++c, from += strides.channel, to += plane) {
        if (strides.x == 1 && width >= kLanes<T>) {
            for_each_block<T>(width, [&](int x) {
                const Vector<T> v = load_lanes<T>(from + x);
                finite += T(0) * v;
                store(to + x, v);
            });
            continue;
        }
        for (int x = 0; x < width; ++x) {
            to[x] = widen(from[x * strides.x]);
            finite[0] += T(0) * to[x];
        }
    }
    return finite;
}

// Writes `width` pixels of planes that begin at `from` to a row of a tensor.
template <typename T, typename Element>
void planes_to_row(Element* to, const Image& strides, const T* from, std::int64_t plane, int width, int channels) {
    if (strides.channel == 1 && width >= kLanes<T> && channels >= kLanes<T>) {
        for_each_block<T>(width, [&](int x) {
            for_each_block<T>(channels, [&](int c) {
                Vector<T> block[kLanes<T>];
                for (int i = 0; i < kLanes<T>; ++i) block[i] = load(from + (c + i) * plane + x);
                transpose<T>(block);
                for (int i = 0; i < kLanes<T>; ++i) store_lanes<T>(to + (x + i) * strides.x + c, block[i]);
            });
        });
        return;
    }
    for (int c = 0; c < channels; ++c, to += strides.channel, from += plane) {
        if (strides.x == 1 && width >= kLanes<T>)
            for_each_block<T>(width, [&](int x) { store_lanes<T>(to + x, load(from + x)); });
        else
            for (int x = 0; x < width; ++x) to[x * strides.x] = narrow<Element>(from[x]);
    }
}

// Bilinear interpolation reads the taps to the right and below with weight zero at a center, which is NaN where they
// are not finite: adds that to the part of a plane of `height` rows and `width` columns.
template <typename T>
void read_taps_of_weight_zero(T* plane, int pitch, int width, int height) {
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) plane[y * pitch + x] += T(0) * plane[y * pitch + lesser(x + 1, width - 1)];
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) plane[y * pitch + x] += T(0) * plane[lesser(y + 1, height - 1) * pitch + x];
}

// Spreads `box` of an image of width x height, whose pixel (0, 0) is at `from`, to planes; zeros beyond the border. The
// box touches the image. Planes need room for one row and one column beyond the box.
template <typename T, typename Element>
void box_to_planes(T* to, const Planes& planes, const Element* from, const Image& strides, Rectangle box,
                   std::int64_t width, std::int64_t height) {
    const int left = greater(0, -box.x), right = int(lesser<std::int64_t>(box.width + 1, width - box.x));
    const int top = greater(0, -box.y), bottom = int(lesser<std::int64_t>(box.height + 1, height - box.y));
    if (left > 0 || top > 0 || right < box.width || bottom < box.height) fill(to, planes.size(), T(0));
    Vector<T> finite = {};
    for (int y = top; y < bottom; ++y)
        finite += row_to_planes<T>(to + std::int64_t(y) * planes.pitch + left, planes.plane(),
                                   from + (box.y + y) * strides.y + (box.x + left) * strides.x, strides, right - left,
                                   planes.channels);
    if (sum_lanes<T>(finite) == 0) return;
    for (int c = 0; c < planes.channels; ++c)
        read_taps_of_weight_zero(to + c * planes.plane() + std::int64_t(top) * planes.pitch + left, planes.pitch,
                                 right - left, bottom - top);
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
