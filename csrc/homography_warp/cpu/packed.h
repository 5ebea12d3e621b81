// Reads both taps of a row at once where they lie side by side in memory: in planes, and in pixels of 3 or 4 channels.
//
// A wide load may touch more than the taps; `reach_of` says how many pixels from the first tap on must exist.
#pragma once

#include "homography_warp/cpu/lanes.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

enum class Packed { no, planes, pixels_of_3, pixels_of_4 };

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
    if (pixels && a.C == 3) return Packed::pixels_of_3;
    if (pixels && a.C == 4) return Packed::pixels_of_4;
    return a.input.x == 1 && a.out.x == 1 ? Packed::planes : Packed::no;
}

// Planes of uint8 are read in 32-bit words; two pixels of 3 channels as 8 elements, and one, for the nearest, as 4.
template <typename Element, int n>
int reach_of(Packed packed) {
    if (packed == Packed::planes && sizeof(Element) == 1) return 3;
    return packed == Packed::pixels_of_3 ? n : n - 1;
}

using Floats = Vector<float>;
template <int n>
using FloatTaps = LaneTaps<float, n>;
typedef float EightFloats __attribute__((vector_size(32)));
typedef float FourFloats __attribute__((vector_size(16)));

template <int n>
VSAD_HD Integers<float> offsets(const WarpArguments& a, const FloatTaps<n>& taps, int channels) {
    return taps.y.index[0] * std::int32_t(a.input.y) + taps.x.index[0] * channels;
}

#if defined(__AVX512F__)
// 16 pixels, two per vector; each half of a vector holds both taps of a row. A pixel is written as 4 floats: of 3
// channels, the next pixel overwrites the fourth.
template <int channels>
VSAD_HD void blend_16_pixels(const std::int32_t* offset, const float* source, std::int64_t below, float* to,
                             const FloatTaps<2>& taps) {
    const auto reg = [](Floats v) { return reinterpret_cast<__m512>(v); };
    const __m512 left = reg(taps.x.weight[0]), right = reg(taps.x.weight[1]);
    const __m512 top = reg(taps.y.weight[0]), bottom = reg(taps.y.weight[1]);
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

// The two taps of a row are read as 8 floats, and a pixel is written as 4: of 3 channels, the next pixel overwrites the
// fourth, and the last pixel is written exactly.
template <int channels>
VSAD_HD void blend_pixels(const WarpArguments& a, const float* source, float* to, int count, const FloatTaps<2>& taps) {
    constexpr int lanes = kLanes<float>;
    std::int32_t offset[lanes];
    float left[lanes], right[lanes], top[lanes], bottom[lanes];
    const Integers<float> all_offsets = offsets(a, taps, channels);
    __builtin_memcpy(offset, &all_offsets, sizeof offset);
#if defined(__AVX512F__)
    if (count == lanes) return blend_16_pixels<channels>(offset, source, a.input.y, to, taps);
#endif
    store(left, taps.x.weight[0]), store(right, taps.x.weight[1]);
    store(top, taps.y.weight[0]), store(bottom, taps.y.weight[1]);
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

VSAD_HD void blend_planes(const WarpArguments& a, const float* source, float* to, int count, const FloatTaps<2>& taps) {
    const Integers<float> offset = offsets(a, taps, 1);
    for (std::int64_t c = 0; c < a.C; ++c) {
        const float* from = source + c * a.input.channel;
        const TwoWords above = gather_two_words<4>(from, offset), below = gather_two_words<4>(from + a.input.y, offset);
        const Floats first = taps.y.weight[0] * Floats(above.first) + taps.y.weight[1] * Floats(below.first);
        const Floats second = taps.y.weight[0] * Floats(above.second) + taps.y.weight[1] * Floats(below.second);
        const Floats value = taps.x.weight[0] * first + taps.x.weight[1] * second;
        store_lanes<float, float>(to + c * a.out.channel, 1, value, count);
    }
}

// float16 and bfloat16: both taps of a row are one 32-bit word.
template <typename Element>
VSAD_HD void blend_planes(const WarpArguments& a, const Element* source, Element* to, int count,
                          const FloatTaps<2>& taps) {
    static_assert(sizeof(Element) == 2, "float and uint8 have overloads of their own");
    constexpr int lanes = kLanes<float>;
    const Integers<float> offset = offsets(a, taps, 1);
    for (std::int64_t c = 0; c < a.C; ++c) {
        const Element* from = source + c * a.input.channel;
        const Words above = gather_words<2>(from, offset), below = gather_words<2>(from + a.input.y, offset);
        const Floats first = taps.y.weight[0] * widen_bits<Element, lanes>(above & 0xffffu) +
                             taps.y.weight[1] * widen_bits<Element, lanes>(below & 0xffffu);
        const Floats second = taps.y.weight[0] * widen_bits<Element, lanes>(above >> 16) +
                              taps.y.weight[1] * widen_bits<Element, lanes>(below >> 16);
        const Floats value = taps.x.weight[0] * first + taps.x.weight[1] * second;
        store_lanes<Element, float>(to + c * a.out.channel, 1, value, count);
    }
}

template <int byte>
VSAD_HD Floats byte_of(Words words) {
    return __builtin_convertvector(Integers<float>((words >> (8 * byte)) & 0xffu), Floats);
}
// Rounds a convex combination of bytes to nearest, ties to even: floats from 2^23 on have no fraction.
VSAD_HD Words rounded(Floats v) { return Words(v + 0x1p23f) & 0xffu; }

// Stores the lowest `channels` bytes of every word.
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
                          const FloatTaps<2>& taps) {
    const Integers<float> offset = offsets(a, taps, 1);
    for (std::int64_t c = 0; c < a.C; ++c) {
        const std::uint8_t* from = source + c * a.input.channel;
        const Words above = gather_words<1>(from, offset), below = gather_words<1>(from + a.input.y, offset);
        const Floats first = taps.y.weight[0] * byte_of<0>(above) + taps.y.weight[1] * byte_of<0>(below);
        const Floats second = taps.y.weight[0] * byte_of<1>(above) + taps.y.weight[1] * byte_of<1>(below);
        const Words value = rounded(taps.x.weight[0] * first + taps.x.weight[1] * second);
        store_bytes<float>(to + c * a.out.channel, Integers<float>(value), count);
    }
}

// The byte at `place` of the eight bytes of two words.
template <int place>
VSAD_HD Floats byte_of(const TwoWords& words) {
    return byte_of<place % 4>(place < 4 ? words.first : words.second);
}
template <int place, int channels>
VSAD_HD Words blend_channel(const TwoWords& above, const TwoWords& below, const FloatTaps<2>& taps) {
    const Floats first = taps.y.weight[0] * byte_of<place>(above) + taps.y.weight[1] * byte_of<place>(below);
    const Floats second =
        taps.y.weight[0] * byte_of<place + channels>(above) + taps.y.weight[1] * byte_of<place + channels>(below);
    return rounded(taps.x.weight[0] * first + taps.x.weight[1] * second) << (8 * place);
}

// Both taps of a row lie in 8 bytes.
template <int channels>
VSAD_HD void blend_pixels(const WarpArguments& a, const std::uint8_t* source, std::uint8_t* to, int count,
                          const FloatTaps<2>& taps) {
    const Integers<float> offset = offsets(a, taps, channels);
    const TwoWords above = gather_two_words<1>(source, offset), below = gather_two_words<1>(source + a.input.y, offset);
    Words words = blend_channel<0, channels>(above, below, taps) | blend_channel<1, channels>(above, below, taps) |
                  blend_channel<2, channels>(above, below, taps);
    if constexpr (channels == 4) words |= blend_channel<3, channels>(above, below, taps);
    store_pixels<channels>(to, words, count);
}

template <typename Element>
VSAD_HD void blend_packed(Packed packed, const WarpArguments& a, const Element* source, Element* to, int count,
                          const FloatTaps<2>& taps) {
    if constexpr (sizeof(Element) != 2) {
        if (packed == Packed::pixels_of_3) return blend_pixels<3>(a, source, to, count, taps);
        if (packed == Packed::pixels_of_4) return blend_pixels<4>(a, source, to, count, taps);
    }
    blend_planes(a, source, to, count, taps);
}

// Copies the nearest pixel.
VSAD_HD void blend_packed(Packed packed, const WarpArguments& a, const std::uint8_t* source, std::uint8_t* to,
                          int count, const FloatTaps<1>& taps) {
    if (packed == Packed::planes) {
        const Integers<float> offset = offsets(a, taps, 1);
        for (std::int64_t c = 0; c < a.C; ++c)
            store_bytes<float>(to + c * a.out.channel,
                               Integers<float>(gather_words<1>(source + c * a.input.channel, offset)), count);
        return;
    }
    const Words words = gather_words<1>(source, offsets(a, taps, packed == Packed::pixels_of_3 ? 3 : 4));
    if (packed == Packed::pixels_of_3)
        store_pixels<3>(to, words, count);
    else
        store_pixels<4>(to, words, count);
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
