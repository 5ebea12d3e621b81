// Loads and stores of one channel of neighboring pixels, one pixel per lane of a vector; and loads and stores of
// channels that lie side by side, in vectors of any width.
#pragma once

#include "cpu/convert.h"
#include "homography_warp/cpu/lane_taps.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

using Words = VectorOf<float>::integer;  // one 32-bit word per lane

// from[offset[i]], with offsets in units of `scale` bytes.
template <int scale>
VSAD_HD Words gather_words(const void* from, Integers<float> offset) {
#if defined(__AVX512F__)
    return reinterpret_cast<Words>(_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), __mmask16(-1),
                                                               reinterpret_cast<__m512i>(offset), from, scale));
#elif defined(__AVX2__)
    return reinterpret_cast<Words>(
        _mm256_i32gather_epi32(static_cast<const int*>(from), reinterpret_cast<__m256i>(offset), scale));
#else
    Words words;
    for (int i = 0; i < kLanes<float>; ++i) {
        std::uint32_t word;
        __builtin_memcpy(&word, static_cast<const char*>(from) + std::int64_t(offset[i]) * scale, sizeof word);
        words[i] = word;
    }
    return words;
#endif
}

struct TwoWords {
    Words first, second;
};

// Two words that lie side by side, for every lane.
template <int scale>
VSAD_HD TwoWords gather_two_words(const void* from, Integers<float> offset) {
#if defined(__AVX512F__)
    const __m512i at = reinterpret_cast<__m512i>(offset);
    const __m512i low = _mm512_mask_i32gather_epi64(_mm512_setzero_si512(), __mmask8(-1),
                                                    _mm512_maskz_extracti64x4_epi64(__mmask8(-1), at, 0), from, scale);
    const __m512i high = _mm512_mask_i32gather_epi64(_mm512_setzero_si512(), __mmask8(-1),
                                                     _mm512_maskz_extracti64x4_epi64(__mmask8(-1), at, 1), from, scale);
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return {reinterpret_cast<Words>(_mm512_permutex2var_epi32(low, even, high)),
            reinterpret_cast<Words>(_mm512_permutex2var_epi32(low, odd, high))};
#else
    return {gather_words<scale>(from, offset), gather_words<scale>(static_cast<const char*>(from) + 4, offset)};
#endif
}

template <typename T, int bytes>
struct Wide {
    typedef T type __attribute__((vector_size(bytes)));
};

// V is a vector of T, or T itself.
template <typename V, typename T, typename Element>
VSAD_HD V load_channels(const Element* from) {
    if constexpr (sizeof(V) == sizeof(T)) {
        return widen(*from);
    } else if constexpr (kNarrow<Element>) {
        return V(load_row<Element, int(sizeof(V) / sizeof(T))>(from));
    } else {
        V v;
        __builtin_memcpy(&v, from, sizeof v);
        return v;
    }
}
template <typename Element, typename T, typename V>
VSAD_HD void store_channels(Element* to, V v) {
    if constexpr (sizeof(V) == sizeof(T))
        *to = narrow<Element>(v);
    else if constexpr (kNarrow<Element>)
        store_row<Element, int(sizeof(V) / sizeof(T))>(to, v);
    else
        __builtin_memcpy(to, &v, sizeof v);
}

// Reads each narrow element with the aligned word around it. An aligned word never crosses a page, so its other bytes
// can be read too.
template <typename Element>
VSAD_HD Words gather_narrow(const Element* from, Integers<float> offset) {
#if defined(__AVX2__)
    constexpr int size = sizeof(Element), in_word = 4 / size, log = size == 1 ? 2 : 1;
    const auto address = reinterpret_cast<std::uintptr_t>(from);
    const Integers<float> index = offset + std::int32_t(address % 4 / size);
    const Words words = gather_words<4>(reinterpret_cast<const void*>(address & ~std::uintptr_t(3)), index >> log);
    return (words >> (Words(index & (in_word - 1)) * (8 * size))) & ((1u << (8 * size)) - 1);
#else
    Words words;
    for (int i = 0; i < kLanes<float>; ++i) {
        Raw<Element> raw;
        __builtin_memcpy(&raw, from + offset[i], sizeof raw);
        words[i] = raw;
    }
    return words;
#endif
}

template <typename T, typename Element>
VSAD_HD Vector<T> gather(const Element* from, Integers<T> offset) {
    if constexpr (std::is_same_v<Element, float>) {
        return Vector<float>(gather_words<4>(from, offset));
    } else if constexpr (kNarrow<Element>) {
        return widen_bits<Element, kLanes<T>>(gather_narrow(from, offset));
    } else {
        T values[kLanes<T>];
        for (int i = 0; i < kLanes<T>; ++i) values[i] = from[offset[i]];
        return load(values);
    }
}

template <typename Element, typename T>
VSAD_HD void store_lanes(Element* to, std::int64_t stride, Vector<T> v, int count) {
    if (stride == 1 && count == kLanes<T>) {
        store_channels<Element, T>(to, v);
        return;
    }
    Element elements[kLanes<T>];
    store_channels<Element, T>(elements, v);
    for (int i = 0; i < count; ++i) to[i * stride] = elements[i];
}

template <typename Element, typename T>
VSAD_HD Vector<T> load_lanes(const Element* from, std::int64_t stride, int count) {
    if (stride == 1 && count == kLanes<T>) return load_channels<Vector<T>, T>(from);
    Element elements[kLanes<T>] = {};
    for (int i = 0; i < count; ++i) elements[i] = from[i * stride];
    return load_channels<Vector<T>, T>(elements);
}

// Stores the lowest byte of every lane.
template <typename T>
VSAD_HD void store_bytes(void* to, Integers<T> lanes, int count) {
    alignas(16) unsigned char bytes[16];
#if defined(__AVX512F__)
    const __m512i all = reinterpret_cast<__m512i>(lanes);
    const __m128i packed =
        sizeof(T) == 4 ? _mm512_maskz_cvtepi32_epi8(__mmask16(-1), all) : _mm512_maskz_cvtepi64_epi8(__mmask8(-1), all);
    if (count == 16) {
        _mm_storeu_si128(static_cast<__m128i*>(to), packed);
        return;
    }
    _mm_store_si128(reinterpret_cast<__m128i*>(bytes), packed);
#else
    Index<T> values[kLanes<T>];
    __builtin_memcpy(values, &lanes, sizeof values);
    for (int i = 0; i < kLanes<T>; ++i) bytes[i] = static_cast<unsigned char>(values[i]);
    if (count == kLanes<T>) {
        __builtin_memcpy(to, bytes, kLanes<T>);
        return;
    }
#endif
    for (int i = 0; i < count; ++i) static_cast<unsigned char*>(to)[i] = bytes[i];
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
