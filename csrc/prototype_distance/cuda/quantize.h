// Quantizing rows relative to the bank's center, with bounds on what that changes. One warp quantizes one row.
#pragma once
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

// The size of a row relative to the center, in every lane.
template <typename Element>
__device__ __forceinline__ Size size_of(const Row<Element>& row, const float* center, std::int64_t C) {
    Size size{0, 0, true};
    for (std::int64_t c = threadIdx.x % 32; c < C; c += 32) {
        const float x = row[c] - center[c];
        size.finite = size.finite && x - x == 0;
        size.largest = fmaxf(size.largest, fabsf(x));
        size.squared = fmaf(x, x, size.squared);
    }
    size.finite = __all_sync(kWarp, size.finite);
    size.largest = warp_max(size.largest);
    size.squared = warp_sum(size.squared);
    return size;
}

struct Quantized {
    float squared, residual;  // |quantized row|^2 and |row - quantized row|
    int sum_of_squares;       // sum of the squared int8 codes
};

// Quantizes a row relative to the center; for int8, `scale` is the value of one step. Zeros fill the width.
template <Format format, typename Element>
__device__ __forceinline__ Quantized quantize_row(unsigned char* to, const Row<Element>& row, const float* center,
                                                  std::int64_t C, std::int64_t width, float scale, float length) {
    const int lane = threadIdx.x % 32;
    float squared = 0, residual = 0;
    int sum_of_squares = 0;
    const float inverse = 1 / scale;
    for (std::int64_t c = lane; c < width / (format == Format::bfloat16 ? 2 : 1); c += 32) {
        const float x = c < C ? row[c] - center[c] : 0;
        float rest;
        if constexpr (format == Format::bfloat16) {
            const bfloat16 code = narrow<bfloat16>(x);
            const float y = widen(code);
            reinterpret_cast<bfloat16*>(to)[c] = code;
            squared = fmaf(y, y, squared);
            rest = x - y;
        } else {
            const int code = max(-127, min(127, __float2int_rn(x * inverse)));
            reinterpret_cast<signed char*>(to)[c] = static_cast<signed char>(code);
            sum_of_squares += code * code;
            rest = fmaf(-float(code), scale, x);
        }
        residual = fmaf(rest, rest, residual);
    }
    sum_of_squares = warp_sum(sum_of_squares);
    residual = (sqrtf(warp_sum(residual)) + kLost + kCenterError * length) * kSafe;
    squared = format == Format::bfloat16 ? warp_sum(squared) : scale * scale * float(sum_of_squares);
    return {squared, residual, sum_of_squares};
}

__device__ __forceinline__ void zero_row(unsigned char* to, std::int64_t width) {
    unsigned* words = reinterpret_cast<unsigned*>(to);
    for (std::int64_t i = threadIdx.x % 32; i < width / std::int64_t(sizeof *words); i += 32) words[i] = 0;
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
