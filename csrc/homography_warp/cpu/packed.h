// Bilinear taps that lie side by side in memory, read together: channels packed into pixels, and planes.
//
// A wide load may touch more than the two taps; `reach_of` says how many pixels from the first tap on must exist.
#pragma once

#include "homography_warp/cpu/lanes.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

enum class Packed { no, planes, three, four };

template <typename Element, int n>
constexpr bool has_packed = sizeof(Element) == 1 ? n <= 2 : sizeof(Element) <= 4 && n == 2;

template <typename T>
bool fits_lane(const WarpArguments& a) {
    const auto extent = [](std::int64_t count, std::int64_t stride) { return (count - 1) * greater(stride, -stride); };
    return sizeof(T) == 8 || extent(a.Hs, a.input.y) + extent(a.Ws, a.input.x) < (std::int64_t(1) << 31) - 64;
}

template <typename Element, int n>
Packed packed_as(const WarpArguments& a) {
    if (!has_packed<Element, n> || !fits_lane<float>(a)) return Packed::no;
    const bool pixels =
        sizeof(Element) != 2 && a.input.channel == 1 && a.out.channel == 1 && a.input.x == a.C && a.out.x == a.C;
    if (pixels && a.C == 3) return Packed::three;
    if (pixels && a.C == 4) return Packed::four;
    return a.input.x == 1 && a.out.x == 1 ? Packed::planes : Packed::no;
}

// Planes of bytes are read by the word; pixels of three as 8 floats or bytes, or, the nearest, as 4.
template <typename Element, int n>
int reach_of(Packed packed) {
    if (packed == Packed::planes && sizeof(Element) == 1) return 3;
    return packed == Packed::three ? n : n - 1;
}

using Floats = Vector<float>;
template <int n>
using PixelSpot = Spot<float, n>;
typedef float EightFloats __attribute__((vector_size(32)));
typedef float FourFloats __attribute__((vector_size(16)));

template <int n>
VSAD_HD Whole<float> offsets(const WarpArguments& a, const PixelSpot<n>& spot, int channels) {
    return spot.y.at[0] * std::int32_t(a.input.y) + spot.x.at[0] * channels;
}

#if defined(__AVX512F__)
// Two pixels a vector, 16 in all: each half of it holds both taps of a row. Pixels are written as 4 floats, so that
// with three channels the last float is overwritten by the next pixel.
template <int channels>
VSAD_HD void blend_16_pixels(const std::int32_t* offset, const float* source, std::int64_t below, float* to,
                             const PixelSpot<2>& spot) {
    const auto reg = [](Floats v) { return reinterpret_cast<__m512>(v); };
    const __m512 left = reg(spot.x.weight[0]), right = reg(spot.x.weight[1]);
    const __m512 top = reg(spot.y.weight[0]), bottom = reg(spot.y.weight[1]);
    alignas(64) std::int32_t column[16], next[16];
    for (int i = 0; i < 16; ++i) {
        column[i] = i / 8 + (i % 8 < channels ? 0 : 16);  // left's lanes, then right's
        next[i] = (i + channels) % 16;
    }
    __m512i pixel = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i side = _mm512_load_si512(column);
    const __m512i behind = _mm512_load_si512(next), two = _mm512_set1_epi32(2);
    for (int l = 0; l < 16; l += 2) {
        const float *first = source + offset[l], *second = source + offset[l + 1];
        const auto pair = [](const float* a, const float* b) {
            return _mm512_maskz_insertf32x8(__mmask16(-1), _mm512_castps256_ps512(_mm256_loadu_ps(a)),
                                            _mm256_loadu_ps(b), 1);
        };
        const __m512 upper = pair(first, second), lower = pair(first + below, second + below);
        __m512 both = _mm512_mul_ps(upper, _mm512_maskz_permutexvar_ps(__mmask16(-1), pixel, top));
        both = _mm512_fmadd_ps(lower, _mm512_maskz_permutexvar_ps(__mmask16(-1), pixel, bottom), both);
        both = _mm512_mul_ps(both, _mm512_permutex2var_ps(left, side, right));
        both = _mm512_add_ps(both, _mm512_maskz_permutexvar_ps(__mmask16(-1), behind, both));
        _mm_storeu_ps(to + channels * l, _mm512_maskz_extractf32x4_ps(__mmask8(-1), both, 0));
        const __m128 other = _mm512_maskz_extractf32x4_ps(__mmask8(-1), both, 2);
        _mm_mask_storeu_ps(to + channels * (l + 1), l < 14 ? __mmask8(15) : __mmask8((1 << channels) - 1), other);
        pixel = _mm512_add_epi32(pixel, two);
        side = _mm512_add_epi32(side, two);
    }
}
#endif

// The two taps of a row are read as 8 floats, and a pixel is written as 4: with three channels the last float is
// overwritten by the next pixel.
template <int channels>
VSAD_HD void blend_pixels(const WarpArguments& a, const float* source, float* to, int count, const PixelSpot<2>& spot) {
    constexpr int lanes = kLanes<float>;
    std::int32_t offset[lanes];
    float left[lanes], right[lanes], top[lanes], bottom[lanes];
    const Whole<float> all_offsets = offsets(a, spot, channels);
    __builtin_memcpy(offset, &all_offsets, sizeof offset);
#if defined(__AVX512F__)
    if (count == lanes) return blend_16_pixels<channels>(offset, source, a.input.y, to, spot);
#endif
    store(left, spot.x.weight[0]), store(right, spot.x.weight[1]);
    store(top, spot.y.weight[0]), store(bottom, spot.y.weight[1]);
    const auto pixel = [&](int l) {
        EightFloats above, below;
        __builtin_memcpy(&above, source + offset[l], sizeof above);
        __builtin_memcpy(&below, source + offset[l] + a.input.y, sizeof below);
        const EightFloats both = top[l] * above + bottom[l] * below;
        constexpr int c = channels;
        const FourFloats first = {both[0], both[1], both[2], both[3]};
        const FourFloats second = {both[c], both[c + 1], both[c + 2], both[c + 3]};
        return left[l] * first + right[l] * second;
    };
    for (int l = 0; l + 1 < count; ++l) {
        const FourFloats value = pixel(l);
        __builtin_memcpy(to + channels * l, &value, sizeof value);
    }
    const FourFloats last = pixel(count - 1);
    __builtin_memcpy(to + channels * (count - 1), &last, channels * sizeof(float));
}

VSAD_HD void blend_planes(const WarpArguments& a, const float* source, float* to, int count, const PixelSpot<2>& spot) {
    const Whole<float> offset = offsets(a, spot, 1);
    for (std::int64_t c = 0; c < a.C; ++c) {
        const float* from = source + c * a.input.channel;
        const TwoWords above = gather_two_words<4>(from, offset), below = gather_two_words<4>(from + a.input.y, offset);
        const Floats first = spot.y.weight[0] * Floats(above.first) + spot.y.weight[1] * Floats(below.first);
        const Floats second = spot.y.weight[0] * Floats(above.second) + spot.y.weight[1] * Floats(below.second);
        const Floats value = spot.x.weight[0] * first + spot.x.weight[1] * second;
        store_lanes<float, float>(to + c * a.out.channel, 1, value, count);
    }
}

// Halves: both taps of a row are one word.
template <typename Element>
VSAD_HD void blend_planes(const WarpArguments& a, const Element* source, Element* to, int count,
                          const PixelSpot<2>& spot) {
    static_assert(sizeof(Element) == 2, "the other types have functions of their own");
    constexpr int lanes = kLanes<float>;
    const Whole<float> offset = offsets(a, spot, 1);
    for (std::int64_t c = 0; c < a.C; ++c) {
        const Element* from = source + c * a.input.channel;
        const Words above = gather_words<2>(from, offset), below = gather_words<2>(from + a.input.y, offset);
        const Floats first = spot.y.weight[0] * widen_bits<Element, lanes>(above & 0xffffu) +
                             spot.y.weight[1] * widen_bits<Element, lanes>(below & 0xffffu);
        const Floats second = spot.y.weight[0] * widen_bits<Element, lanes>(above >> 16) +
                              spot.y.weight[1] * widen_bits<Element, lanes>(below >> 16);
        const Floats value = spot.x.weight[0] * first + spot.x.weight[1] * second;
        store_lanes<Element, float>(to + c * a.out.channel, 1, value, count);
    }
}

template <int byte>
VSAD_HD Floats byte_of(Words words) {
    return __builtin_convertvector(Whole<float>((words >> (8 * byte)) & 0xffu), Floats);
}
// A convex combination of bytes, rounded to nearest, ties to even: from 2^23 on floats have no fraction.
VSAD_HD Words rounded(Floats v) { return Words(v + 0x1p23f) & 0xffu; }

// The lowest `channels` bytes of every word.
template <int channels>
VSAD_HD void store_pixels(std::uint8_t* to, Words words, int count) {
#if defined(__AVX512BW__)
    if (channels == 3 && count == 16) {
        const __m512i first_12 = _mm512_maskz_broadcast_i32x4(
            __mmask16(-1), _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
        const __m512i together = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
        const __m512i packed = _mm512_shuffle_epi8(reinterpret_cast<__m512i>(words), first_12);
        _mm512_mask_storeu_epi32(to, 0xfff, _mm512_maskz_permutexvar_epi32(__mmask16(-1), together, packed));
        return;
    }
#endif
    std::uint32_t values[kLanes<float>];
    __builtin_memcpy(values, &words, sizeof values);
    for (int l = 0; l + 1 < count; ++l) __builtin_memcpy(to + channels * l, values + l, sizeof values[l]);
    __builtin_memcpy(to + channels * (count - 1), values + count - 1, channels);
}

VSAD_HD void blend_planes(const WarpArguments& a, const std::uint8_t* source, std::uint8_t* to, int count,
                          const PixelSpot<2>& spot) {
    const Whole<float> offset = offsets(a, spot, 1);
    for (std::int64_t c = 0; c < a.C; ++c) {
        const std::uint8_t* from = source + c * a.input.channel;
        const Words above = gather_words<1>(from, offset), below = gather_words<1>(from + a.input.y, offset);
        const Floats first = spot.y.weight[0] * byte_of<0>(above) + spot.y.weight[1] * byte_of<0>(below);
        const Floats second = spot.y.weight[0] * byte_of<1>(above) + spot.y.weight[1] * byte_of<1>(below);
        const Words value = rounded(spot.x.weight[0] * first + spot.x.weight[1] * second);
        store_bytes<float>(to + c * a.out.channel, Whole<float>(value), count);
    }
}

// The byte at `place` of eight.
template <int place>
VSAD_HD Floats byte_of(const TwoWords& words) {
    return byte_of<place % 4>(place < 4 ? words.first : words.second);
}
template <int place, int channels>
VSAD_HD Words blend_channel(const TwoWords& above, const TwoWords& below, const PixelSpot<2>& spot) {
    const Floats first = spot.y.weight[0] * byte_of<place>(above) + spot.y.weight[1] * byte_of<place>(below);
    const Floats second =
        spot.y.weight[0] * byte_of<place + channels>(above) + spot.y.weight[1] * byte_of<place + channels>(below);
    return rounded(spot.x.weight[0] * first + spot.x.weight[1] * second) << (8 * place);
}

// Both taps of a row lie in 8 bytes.
template <int channels>
VSAD_HD void blend_pixels(const WarpArguments& a, const std::uint8_t* source, std::uint8_t* to, int count,
                          const PixelSpot<2>& spot) {
    const Whole<float> offset = offsets(a, spot, channels);
    const TwoWords above = gather_two_words<1>(source, offset), below = gather_two_words<1>(source + a.input.y, offset);
    Words words = blend_channel<0, channels>(above, below, spot) | blend_channel<1, channels>(above, below, spot) |
                  blend_channel<2, channels>(above, below, spot);
    if constexpr (channels == 4) words |= blend_channel<3, channels>(above, below, spot);
    store_pixels<channels>(to, words, count);
}

template <typename Element>
VSAD_HD void blend_packed(Packed packed, const WarpArguments& a, const Element* source, Element* to, int count,
                          const PixelSpot<2>& spot) {
    if constexpr (sizeof(Element) != 2) {
        if (packed == Packed::three) return blend_pixels<3>(a, source, to, count, spot);
        if (packed == Packed::four) return blend_pixels<4>(a, source, to, count, spot);
    }
    blend_planes(a, source, to, count, spot);
}

// The nearest pixel.
VSAD_HD void blend_packed(Packed packed, const WarpArguments& a, const std::uint8_t* source, std::uint8_t* to,
                          int count, const PixelSpot<1>& spot) {
    if (packed == Packed::planes) {
        const Whole<float> offset = offsets(a, spot, 1);
        for (std::int64_t c = 0; c < a.C; ++c)
            store_bytes<float>(to + c * a.out.channel,
                               Whole<float>(gather_words<1>(source + c * a.input.channel, offset)), count);
        return;
    }
    const Words words = gather_words<1>(source, offsets(a, spot, packed == Packed::three ? 3 : 4));
    if (packed == Packed::three)
        store_pixels<3>(to, words, count);
    else
        store_pixels<4>(to, words, count);
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
