// Bilinear taps that lie side by side in memory, read together: channels packed into pixels, and planes.
//
// A wide load may touch more than the two taps; `reach_of` says how many pixels from the first tap on must exist.
#pragma once

#include "cpu/homography_warp_lanes.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

enum class Packed { no, planes, three, four };  // four: bytes only; floats are blended as rows

template <typename Element>
constexpr bool has_packed = std::is_same_v<Element, float> || std::is_same_v<Element, std::uint8_t>;

template <typename T>
bool fits_lane(const WarpArguments& a) {
    const auto extent = [](std::int64_t count, std::int64_t stride) { return (count - 1) * greater(stride, -stride); };
    return sizeof(T) == 8 || extent(a.Hs, a.input.y) + extent(a.Ws, a.input.x) < (std::int64_t(1) << 31) - 64;
}

template <typename Element>
Packed packed_as(const WarpArguments& a) {
    if (!has_packed<Element> || !fits_lane<float>(a)) return Packed::no;
    const bool pixels = a.input.channel == 1 && a.out.channel == 1 && a.input.x == a.C && a.out.x == a.C;
    if (pixels && a.C == 3) return Packed::three;
    if (pixels && a.C == 4 && sizeof(Element) == 1) return Packed::four;
    return a.input.x == 1 && a.out.x == 1 ? Packed::planes : Packed::no;
}

template <typename Element>
int reach_of(Packed packed, int n) {
    if (packed == Packed::planes) return sizeof(Element) == 1 ? 3 : 1;
    return packed == Packed::three ? 2 : n - 1;  // 8 floats, or 4 bytes of the second tap: into the third pixel
}

template <typename T>
VSAD_HD void store_mask(char* to, Whole<T> mask, int count) {
    typedef signed char Bytes __attribute__((vector_size(kLanes<T>)));
    const Bytes bytes = __builtin_convertvector(mask, Bytes) & 1;
    char values[kLanes<T>];
    __builtin_memcpy(values, &bytes, sizeof values);
    if (count == kLanes<T>)
        __builtin_memcpy(to, values, sizeof values);
    else
        for (int i = 0; i < count; ++i) to[i] = values[i];
}

using Floats = Vector<float>;
using PairSpot = Spot<float, 2>;

// A pixel's two taps of a row are one vector of 8 floats, of which the last two are not used.
VSAD_HD void blend_three(const WarpArguments& a, const float* source, float* to, int count, const PairSpot& spot) {
    typedef float Eight __attribute__((vector_size(32)));
    typedef float Four __attribute__((vector_size(16)));
    constexpr int lanes = kLanes<float>;
    std::int32_t offset[lanes];
    float left[lanes], right[lanes], top[lanes], bottom[lanes];
    const Whole<float> offsets = spot.y.at[0] * std::int32_t(a.input.y) + spot.x.at[0] * 3;
    __builtin_memcpy(offset, &offsets, sizeof offset);
    store(left, spot.x.weight[0]), store(right, spot.x.weight[1]);
    store(top, spot.y.weight[0]), store(bottom, spot.y.weight[1]);
    for (int l = 0; l < count; ++l) {
        const float* from = source + offset[l];
        Eight above, below;
        __builtin_memcpy(&above, from, sizeof above);
        __builtin_memcpy(&below, from + a.input.y, sizeof below);
        const Eight column = top[l] * above + bottom[l] * below;
        const Four first = {column[0], column[1], column[2], 0}, second = {column[3], column[4], column[5], 0};
        const Four pixel = left[l] * first + right[l] * second;
        __builtin_memcpy(to + 3 * l, &pixel, l + 1 < count ? sizeof pixel : 3 * sizeof(float));
    }
}

VSAD_HD void blend_planes(const WarpArguments& a, const float* source, float* to, int count, const PairSpot& spot) {
    const Whole<float> offset = spot.y.at[0] * std::int32_t(a.input.y) + spot.x.at[0];
    for (std::int64_t c = 0; c < a.C; ++c) {
        const float *above = source + c * a.input.channel, *below = above + a.input.y;
        const Floats top = spot.x.weight[0] * gather<float>(above, offset) +
                           spot.x.weight[1] * gather<float>(above + 1, offset);
        const Floats bottom = spot.x.weight[0] * gather<float>(below, offset) +
                              spot.x.weight[1] * gather<float>(below + 1, offset);
        store_lanes<float, float>(to + c * a.out.channel, 1, spot.y.weight[0] * top + spot.y.weight[1] * bottom, count);
    }
}

template <int byte>
VSAD_HD Floats byte_of(Words words) {
    return __builtin_convertvector(Whole<float>((words >> (8 * byte)) & 0xffu), Floats);
}
// A convex combination of bytes, rounded to nearest, ties to even: from 2^23 on floats have no fraction.
VSAD_HD Words rounded(Floats v) { return Words(v + 0x1p23f) & 0xffu; }

VSAD_HD void store_bytes(std::uint8_t* to, Words words, int count) {
    std::uint32_t values[kLanes<float>];
    __builtin_memcpy(values, &words, sizeof values);
    for (int l = 0; l < kLanes<float>; ++l)
        if (l < count) to[l] = std::uint8_t(values[l]);
}

VSAD_HD void blend_planes(const WarpArguments& a, const std::uint8_t* source, std::uint8_t* to, int count,
                          const PairSpot& spot) {
    const Whole<float> offset = spot.y.at[0] * std::int32_t(a.input.y) + spot.x.at[0];
    for (std::int64_t c = 0; c < a.C; ++c) {
        const std::uint8_t* from = source + c * a.input.channel;
        const Words above = gather_words<1>(from, offset), below = gather_words<1>(from + a.input.y, offset);
        const Floats first = spot.y.weight[0] * byte_of<0>(above) + spot.y.weight[1] * byte_of<0>(below);
        const Floats second = spot.y.weight[0] * byte_of<1>(above) + spot.y.weight[1] * byte_of<1>(below);
        const Words value = rounded(spot.x.weight[0] * first + spot.x.weight[1] * second);
        typedef std::uint8_t Bytes __attribute__((vector_size(kLanes<float>)));
        const Bytes bytes = __builtin_convertvector(value, Bytes);
        if (count == kLanes<float>)
            __builtin_memcpy(to + c * a.out.channel, &bytes, sizeof bytes);
        else
            store_bytes(to + c * a.out.channel, value, count);
    }
}

// Four channels are a word, three are one with a foreign byte that is written and then overwritten.
template <int channels>
VSAD_HD void blend_words(const WarpArguments& a, const std::uint8_t* source, std::uint8_t* to, int count,
                         const PairSpot& spot) {
    const Whole<float> offset = spot.y.at[0] * std::int32_t(a.input.y) + spot.x.at[0] * channels;
    const std::uint8_t* below = source + a.input.y;
    const Words w00 = gather_words<1>(source, offset), w01 = gather_words<1>(source + channels, offset);
    const Words w10 = gather_words<1>(below, offset), w11 = gather_words<1>(below + channels, offset);
    const Weights<Floats> w(spot.x.weight[1], spot.y.weight[1]);
    Words words = rounded(interpolate(w, byte_of<0>(w00), byte_of<0>(w01), byte_of<0>(w10), byte_of<0>(w11)));
    words |= rounded(interpolate(w, byte_of<1>(w00), byte_of<1>(w01), byte_of<1>(w10), byte_of<1>(w11))) << 8;
    words |= rounded(interpolate(w, byte_of<2>(w00), byte_of<2>(w01), byte_of<2>(w10), byte_of<2>(w11))) << 16;
    if constexpr (channels == 4)
        words |= rounded(interpolate(w, byte_of<3>(w00), byte_of<3>(w01), byte_of<3>(w10), byte_of<3>(w11))) << 24;
    std::uint32_t values[kLanes<float>];
    __builtin_memcpy(values, &words, sizeof values);
    for (int l = 0; l < count - 1; ++l) __builtin_memcpy(to + channels * l, values + l, sizeof values[l]);
    __builtin_memcpy(to + channels * (count - 1), values + count - 1, channels);
}

VSAD_HD void blend_packed(Packed packed, const WarpArguments& a, const float* source, float* to, int count,
                          const PairSpot& spot) {
    if (packed == Packed::three)
        blend_three(a, source, to, count, spot);
    else
        blend_planes(a, source, to, count, spot);
}
VSAD_HD void blend_packed(Packed packed, const WarpArguments& a, const std::uint8_t* source, std::uint8_t* to,
                          int count, const PairSpot& spot) {
    if (packed == Packed::three)
        blend_words<3>(a, source, to, count, spot);
    else if (packed == Packed::four)
        blend_words<4>(a, source, to, count, spot);
    else
        blend_planes(a, source, to, count, spot);
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
