// Converts vectors of uint8, bfloat16 or float16 elements to float32 and back. Compilers unroll a loop over the
// functions of scalar.h before they recognize it as one vector operation, so the conversions are written for vectors.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "cpu/simd.h"

namespace vsad {
namespace VSAD_ISA {

template <typename T, int count>
struct Row {
    typedef T type __attribute__((vector_size(count * sizeof(T))));
};
template <int count>
using Bits = typename Row<std::uint32_t, count>::type;
template <int count>
using FloatRow = typename Row<float, count>::type;

template <typename Element>
constexpr bool kNarrow = sizeof(Element) < sizeof(float);
template <typename Element>
using Raw = std::conditional_t<sizeof(Element) == 1, std::uint8_t, std::uint16_t>;

// widen() of scalar.h for each element.
template <typename Element, int count>
VSAD_HD FloatRow<count> widen_bits(Bits<count> bits) {
    using V = FloatRow<count>;
    using B = Bits<count>;
    if constexpr (std::is_same_v<Element, std::uint8_t>) {
        using Signed = typename Row<std::int32_t, count>::type;  // x86 converts signed integers in one instruction
        return __builtin_convertvector(Signed(bits), V);
    } else if constexpr (std::is_same_v<Element, bfloat16>) {
        return V(bits << 16);
    } else {
        const B sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
        const B rebased = B(V(rest) * 0x1p112f), special = rest | 0x7f800000u;
        return V(sign | (rest >= 0x0f800000u ? special : rebased));
    }
}

// narrow() of scalar.h for each element.
template <typename Element, int count>
VSAD_HD Bits<count> narrow_bits(FloatRow<count> v) {
    using V = FloatRow<count>;
    using B = Bits<count>;
    const B bits = B(v);
    if constexpr (std::is_same_v<Element, std::uint8_t>) {
        v = v > 0 ? v : V{};
        v = v < 255 ? v : 255 - V{};
        return B(v + 0x1p23f) & 0xffu;
    } else if constexpr (std::is_same_v<Element, bfloat16>) {
        return v == v ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : (bits >> 16) | 0x40u;
    } else {
        const B magnitude = bits & 0x7fffffffu;
        const B tiny = B(V(magnitude) + 0.5f) - 0x3f000000u;
        B rounded = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
        rounded = magnitude < 0x38800000u ? tiny : rounded;
        rounded = magnitude >= 0x477ff000u ? 0x7c00u + B{} : rounded;
        rounded = magnitude > 0x7f800000u ? 0x7e00u + B{} : rounded;
        return ((bits >> 16) & 0x8000u) | rounded;
    }
}

template <typename Element, int count>
VSAD_HD FloatRow<count> load_row(const Element* from) {
#if defined(__F16C__)
    if constexpr (std::is_same_v<Element, float16> && count == 4)
        return reinterpret_cast<FloatRow<count>>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
    if constexpr (std::is_same_v<Element, float16> && count == 8)
        return reinterpret_cast<FloatRow<count>>(
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<Element, float16> && count == 16)
        return reinterpret_cast<FloatRow<count>>(
            _mm512_maskz_cvtph_ps(__mmask16(-1), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
    if constexpr (sizeof(Element) == 2 && count == 16)
        return widen_bits<Element, count>(reinterpret_cast<Bits<count>>(
            _mm512_maskz_cvtepu16_epi32(__mmask16(-1), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))));
#endif
    typename Row<Raw<Element>, count>::type raw;
    __builtin_memcpy(&raw, from, sizeof raw);
    return widen_bits<Element, count>(__builtin_convertvector(raw, Bits<count>));
}

template <typename Element, int count>
VSAD_HD void store_row(Element* to, FloatRow<count> v) {
#if defined(__F16C__)
    if constexpr (std::is_same_v<Element, float16> && count == 4) {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                         _mm_cvtps_ph(reinterpret_cast<__m128>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        return;
    }
    if constexpr (std::is_same_v<Element, float16> && count == 8) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                         _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        return;
    }
#endif
#if defined(__AVX512F__)
    if constexpr (count == 16) {
        __m256i packed;
        if constexpr (std::is_same_v<Element, float16>)
            packed = _mm512_maskz_cvtps_ph(__mmask16(-1), reinterpret_cast<__m512>(v),
                                           _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        else
            packed =
                _mm512_maskz_cvtepi32_epi16(__mmask16(-1), reinterpret_cast<__m512i>(narrow_bits<Element, count>(v)));
        if constexpr (sizeof(Element) == 2)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
        else
            _mm_storeu_si128(
                reinterpret_cast<__m128i*>(to),
                _mm512_maskz_cvtepi32_epi8(__mmask16(-1), reinterpret_cast<__m512i>(narrow_bits<Element, count>(v))));
        return;
    }
#endif
    const Bits<count> bits = narrow_bits<Element, count>(v);
    std::uint32_t words[count];
    Raw<Element> raw[count];
    __builtin_memcpy(words, &bits, sizeof words);
    for (int i = 0; i < count; ++i) raw[i] = Raw<Element>(words[i]);
    __builtin_memcpy(to, raw, sizeof raw);
}

}  // namespace VSAD_ISA
}  // namespace vsad
