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

// Registers of one channel each, four of them, of four channels of kLanes pixels that are `step` elements apart. Every
// quad of a register comes from memory as it is: of the shuffles that remain none crosses a quad.
VSAD_HD void load_four_channels(Vector<float> (&channels)[4], const float* from, std::int64_t step) {
    Vector<float> pixels[4];  // quad j of register i holds pixel 4 j + i
    for (int i = 0; i < 4; ++i) {
        const float* at = from + i * step;
#if defined(__AVX512F__)
        __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(at));
        v = _mm512_insertf32x4(v, _mm_loadu_ps(at + 4 * step), 1);
        v = _mm512_insertf32x4(v, _mm_loadu_ps(at + 8 * step), 2);
        pixels[i] = Vector<float>(_mm512_insertf32x4(v, _mm_loadu_ps(at + 12 * step), 3));
#elif defined(__AVX__)
        const __m256 v = _mm256_castps128_ps256(_mm_loadu_ps(at));
        pixels[i] = Vector<float>(_mm256_insertf128_ps(v, _mm_loadu_ps(at + 4 * step), 1));
#else
        pixels[i] = load(at);
#endif
    }
    const Vector<float> even[2] = {in_quads<float, 0, 2, 4, 6>(pixels[0], pixels[1]),
                                   in_quads<float, 0, 2, 4, 6>(pixels[2], pixels[3])};
    const Vector<float> odd[2] = {in_quads<float, 1, 3, 5, 7>(pixels[0], pixels[1]),
                                  in_quads<float, 1, 3, 5, 7>(pixels[2], pixels[3])};
    channels[0] = in_quads<float, 0, 2, 4, 6>(even[0], even[1]);
    channels[1] = in_quads<float, 0, 2, 4, 6>(odd[0], odd[1]);
    channels[2] = in_quads<float, 1, 3, 5, 7>(even[0], even[1]);
    channels[3] = in_quads<float, 1, 3, 5, 7>(odd[0], odd[1]);
}

// Spreads a row of `width` pixels to the planes that begin at `to`. Returns zero, or NaN where one is not finite.
template <typename T, typename Element>
Vector<T> row_to_planes(T* to, std::int64_t plane, const Element* from, const Image& strides, int width, int channels) {
    const std::int64_t step = strides.x;
    Vector<T> finite = {};
    if constexpr (std::is_same_v<Element, float>) {
        if (strides.channel == 1 && width >= kLanes<T> && channels >= 4) {
            for_each_block<T>(width, [&](int x) {
                for (int at = 0; at < channels; at += 4) {
                    const int c = lesser(at, channels - 4);
                    Vector<float> block[4];
                    load_four_channels(block, from + x * step + c, step);
                    for (int i = 0; i < 4; ++i) {
                        finite += T(0) * block[i];
                        store(to + (c + i) * plane + x, block[i]);
                    }
                }
            });
            return finite;
        }
    } else if (strides.channel == 1 && width >= kLanes<T> && channels >= kLanes<T>) {
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

// The last few rows of a box, each the rows of its channels one after the other: they stay in the nearest cache, from
// which planes of a whole box would drive each other.
struct Ring {
    int channels, rows, pitch;  // `pitch` from channel to channel
    std::int64_t size() const { return std::int64_t(rows) * channels * pitch; }
    std::int64_t row(int y) const { return std::int64_t(y % rows) * channels * pitch; }
};

// Spreads rows of `box` of an image of width x height, whose pixel (0, 0) is at `from`, to a ring; zeros beyond the
// border. A ring has room for one column beyond the box, and one row more than are read together.
template <typename T, typename Element>
class BoxRows {
  public:
    // `zeros`: whether the ring holds zeros beyond the left and right border already, from a box of the same columns.
    BoxRows(T* ring, const Ring& shape, const Element* from, const Image& strides, Rectangle box, std::int64_t width,
            std::int64_t height, bool zeros)
        : ring_(ring), shape_(shape), from_(from), strides_(strides), box_(box), height_(height) {
        left_ = lesser(greater(0, -box.x), box.width);
        right_ = int(greater<std::int64_t>(left_, lesser<std::int64_t>(box.width + 1, width - box.x)));
        if (!zeros) fill(ring, shape.size(), T(0));
    }

    // Has all rows before row `end` of the box in the ring, and the one after them, which the last one's taps reach.
    void reach(int end) {
        for (; next_ <= end; ++next_) spread(next_);
    }

  private:
    void spread(int y) {
        T* row = ring_ + shape_.row(y);
        const std::int64_t at = box_.y + std::int64_t(y);
        if (at < 0 || at >= height_ || left_ == right_) {
            fill(row, std::int64_t(shape_.channels) * shape_.pitch, T(0));
            return;
        }
        const Element* from = from_ + at * strides_.y + (box_.x + left_) * strides_.x;
        const Vector<T> finite =
            row_to_planes<T>(row + left_, shape_.pitch, from, strides_, right_ - left_, shape_.channels);
        if (sum_lanes<T>(finite) != 0) read_taps_of_weight_zero(row, y);
    }

    // Bilinear interpolation reads the taps to the right and below with weight zero at a center, which is NaN where
    // they are not finite: adds that to the row and to the one above it.
    void read_taps_of_weight_zero(T* row, int y) {
        const bool last = box_.y + std::int64_t(y) == height_ - 1;  // the tap below is the row itself
        T* above = y > 0 && box_.y + y > 0 ? ring_ + shape_.row(y - 1) : nullptr;
        for (int c = 0; c < shape_.channels; ++c)
            for (int x = left_; x < right_; ++x) {
                T& element = row[c * shape_.pitch + x];
                element += T(0) * row[c * shape_.pitch + lesser(x + 1, right_ - 1)];
                if (last) element += T(0) * element;
                if (above) above[c * shape_.pitch + x] += T(0) * element;
            }
    }

    T* ring_;
    const Ring shape_;
    const Element* from_;
    const Image strides_;
    const Rectangle box_;
    const std::int64_t height_;
    int left_, right_, next_ = 0;
};

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
