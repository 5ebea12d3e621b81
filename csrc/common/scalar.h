// The element types of tensors, and their conversion to the type they are computed in.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/geometry.h"

namespace vsad {

enum class Scalar : int { float32, float64, bfloat16, float16, uint8 };  // the codes that Python passes

namespace VSAD_ISA {

struct bfloat16 {
    std::uint16_t bits;
};
struct float16 {
    std::uint16_t bits;
};

template <typename To, typename From>
VSAD_HD To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

template <typename Element>
struct Compute {
    using type = float;
};
template <>
struct Compute<double> {
    using type = double;
};

VSAD_HD float widen(float x) { return x; }
VSAD_HD double widen(double x) { return x; }
VSAD_HD float widen(std::uint8_t x) { return x; }
VSAD_HD float widen(bfloat16 x) { return bit_cast<float>(std::uint32_t(x.bits) << 16); }

// Branchless, so that loops over it become vector code: the exponent is rebased by an exact multiplication.
VSAD_HD float widen(float16 x) {
#if defined(__CUDA_ARCH__)
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    const std::uint32_t sign = std::uint32_t(x.bits & 0x8000u) << 16, rest = std::uint32_t(x.bits & 0x7fffu) << 13;
    const std::uint32_t rebased = bit_cast<std::uint32_t>(bit_cast<float>(rest) * 0x1p112f);
    const std::uint32_t special = 0x7f800000u | rest;  // infinity and NaN
    return bit_cast<float>(sign | (rest >= 0x0f800000u ? special : rebased));
#endif
}

// Round to nearest, ties to even.
template <typename Element>
VSAD_HD Element narrow(float x);
template <>
VSAD_HD float narrow<float>(float x) {
    return x;
}
template <>
VSAD_HD bfloat16 narrow<bfloat16>(float x) {
#if defined(__CUDA_ARCH__)
    bfloat16 narrowed;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(x));
    return narrowed;
#else
    const std::uint32_t bits = bit_cast<std::uint32_t>(x);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {std::uint16_t(x == x ? rounded : (bits >> 16) | 0x40u)};
#endif
}
template <>
VSAD_HD float16 narrow<float16>(float x) {
#if defined(__CUDA_ARCH__)
    float16 narrowed;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(x));
    return narrowed;
#else
    const std::uint32_t bits = bit_cast<std::uint32_t>(x), sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    std::uint32_t rounded;
    if (magnitude > 0x7f800000u) {
        rounded = 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
        rounded = 0x7c00u;  // rounds past 65504
    } else if (magnitude < 0x38800000u) {
        // Below 2^-14, float16 are multiples of 2^-24, which is the last bit of a float just above 0.5.
        rounded = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    } else {
        rounded = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    return {std::uint16_t(sign | rounded)};
#endif
}
// Clamped to 0..255; beyond 2^23 a float has no fraction, so the sum is rounded as the others are.
template <>
VSAD_HD std::uint8_t narrow<std::uint8_t>(float x) {
    x = x > 0 ? x : 0;  // NaN too
    x = x < 255 ? x : 255;
    return std::uint8_t(bit_cast<std::uint32_t>(x + 0x1p23f));
}
template <typename Element>
VSAD_HD double narrow(double x) {
    return x;
}

}  // namespace VSAD_ISA
}  // namespace vsad
