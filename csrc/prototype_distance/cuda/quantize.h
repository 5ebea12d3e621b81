// Quantizing rows relative to the bank's center, with bounds on what that changes. One warp quantizes one row.
#pragma once
#include <type_traits>

#include "prototype_distance/cuda/error_bounds.h"
#include "prototype_distance/cuda/rows.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

constexpr int kQuantizeThreads = 256, kQuantizeWarps = kQuantizeThreads / 32;
constexpr float kHuge = 1e36f;                // squared lengths from here on may overflow when they are summed
constexpr float kLeastScale = 1e-30f;         // its inverse is finite
constexpr float kSafe = 1.001f;               // covers the rounding of sums of 2^17 terms over 32 lanes
constexpr float kCenterError = 1.1f * kUnit;  // rounding of a centered row, relative to its length
constexpr float kLost = 0x1p-64f;             // what a length may lose where squares underflow

inline int quantize_blocks(std::int64_t rows) {
    constexpr std::int64_t most = 2048;
    const std::int64_t blocks = (rows + kQuantizeWarps - 1) / kQuantizeWarps;
    return static_cast<int>(blocks < most ? blocks : most);
}

// The first row of a warp in a grid-stride loop over rows, and the step to its next one.
__device__ __forceinline__ std::int64_t first_row() {
    return blockIdx.x * std::int64_t(kQuantizeWarps) + threadIdx.x / 32;
}
__device__ __forceinline__ std::int64_t row_step() { return gridDim.x * kQuantizeWarps; }

struct Size {
    float largest, squared;
    bool finite;
};

template <int n, typename Element>
__device__ __forceinline__ Size size_of_packs(const Row<Element>& row, const float* center, std::int64_t C) {
    Size size{0, 0, true};
    for (std::int64_t c = threadIdx.x % 32 * n; c < C; c += 32 * n) {
        float own[n], middle[n];
        row.load(c, own);
        load_pack(center + c, middle);
#pragma unroll
        for (int i = 0; i < n; ++i) {
            const float x = own[i] - middle[i];
            size.finite = size.finite && x - x == 0;
            size.largest = fmaxf(size.largest, fabsf(x));
            size.squared = fmaf(x, x, size.squared);
        }
    }
    size.finite = __all_sync(kWarp, size.finite);
    size.largest = warp_max(size.largest);
    size.squared = warp_sum(size.squared);
    return size;
}

// The size of a row relative to the center, in every lane.
template <typename Element>
__device__ __forceinline__ Size size_of(const Row<Element>& row, const float* center, std::int64_t C) {
    return row.has_packs(C) ? size_of_packs<kPack<Element>>(row, center, C) : size_of_packs<1>(row, center, C);
}

struct Quantized {
    float squared, residual;  // |quantized row|^2 and |row - quantized row|
    int sum_of_squares;       // sum of the squared int8 codes
};

// The value of one int8 step.
struct Step {
    float size, inverse;
};

// What lanes add up about a row that they quantize.
struct QuantizedSums {
    float squared = 0, residual = 0;
    int sum_of_squares = 0;
};

// Quantizes n values x of a row to the codes from `to` on.
template <int n>
__device__ __forceinline__ void quantize(bfloat16* to, const float (&x)[n], const Step&, QuantizedSums& sums) {
    Pack<bfloat16, n> codes;
#pragma unroll
    for (int i = 0; i < n; ++i) {
        codes.value[i] = narrow<bfloat16>(x[i]);
        const float y = widen(codes.value[i]), rest = x[i] - y;
        sums.squared = fmaf(y, y, sums.squared);
        sums.residual = fmaf(rest, rest, sums.residual);
    }
    *reinterpret_cast<Pack<bfloat16, n>*>(to) = codes;
}
template <int n>
__device__ __forceinline__ void quantize(signed char* to, const float (&x)[n], const Step& step, QuantizedSums& sums) {
    Pack<signed char, n> codes;
#pragma unroll
    for (int i = 0; i < n; ++i) {
        const int code = max(-127, min(127, __float2int_rn(x[i] * step.inverse)));
        codes.value[i] = static_cast<signed char>(code);
        sums.sum_of_squares += code * code;
        const float rest = fmaf(-float(code), step.size, x[i]);
        sums.residual = fmaf(rest, rest, sums.residual);
    }
    *reinterpret_cast<Pack<signed char, n>*>(to) = codes;
}

template <int n, typename Code, typename Element>
__device__ __forceinline__ QuantizedSums quantize_packs(unsigned char* to, const Row<Element>& row, const float* center,
                                                        std::int64_t C, std::int64_t width, const Step& step) {
    QuantizedSums sums;
    for (std::int64_t c = threadIdx.x % 32 * n; c < width / std::int64_t(sizeof(Code)); c += 32 * n) {
        float x[n] = {};
        if (c < C) {
            float middle[n];
            row.load(c, x);
            load_pack(center + c, middle);
#pragma unroll
            for (int i = 0; i < n; ++i) x[i] -= middle[i];
        }
        quantize(reinterpret_cast<Code*>(to) + c, x, step, sums);
    }
    return sums;
}

// Quantizes a row relative to the center; for int8, `scale` is the value of one step. Zeros fill the width.
template <Format format, typename Element>
__device__ __forceinline__ Quantized quantize_row(unsigned char* to, const Row<Element>& row, const float* center,
                                                  std::int64_t C, std::int64_t width, float scale, float length) {
    using Code = std::conditional_t<format == Format::bfloat16, bfloat16, signed char>;
    const Step step{scale, 1 / scale};
    const QuantizedSums sums = row.has_packs(C) ? quantize_packs<kPack<Element>, Code>(to, row, center, C, width, step)
                                                : quantize_packs<1, Code>(to, row, center, C, width, step);
    const int sum_of_squares = warp_sum(sums.sum_of_squares);
    const float residual = (sqrtf(warp_sum(sums.residual)) + kLost + kCenterError * length) * kSafe;
    const float squared = format == Format::bfloat16 ? warp_sum(sums.squared) : scale * scale * float(sum_of_squares);
    return {squared, residual, sum_of_squares};
}

__device__ __forceinline__ void zero_row(unsigned char* to, std::int64_t width) {
    unsigned* words = reinterpret_cast<unsigned*>(to);
    for (std::int64_t i = threadIdx.x % 32; i < width / std::int64_t(sizeof *words); i += 32) words[i] = 0;
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
