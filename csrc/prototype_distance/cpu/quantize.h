// Rows relative to the bank's center, and quantized to int8, with bounds on what quantization changed.
#pragma once

#include "cpu/arena.h"
#include "cpu/simd.h"
#include "prototype_distance/cpu/kernels.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr double kUnit = 0x1p-24;              // relative rounding error of one float32 operation
constexpr double kCenterError = 1.01 * kUnit;  // rounding of a centered row, relative to its length
constexpr double kHuge = 1e36;                 // squared lengths from here on may overflow a float when they are summed
constexpr float kLeastScale = 1e-30f;          // below it 1 / scale may overflow, and rows are quantized to zero

VSAD_HD float round_up_to_float(double x) { return float(x * (1 + 4 * kUnit)); }

template <typename T>
void center_row(float* to, const T* row, const float* center, std::int64_t C) {
    for (std::int64_t c = 0; c < C; ++c) to[c] = float(row[c] - center[c]);
    for (std::int64_t c = C; c % 16; ++c) to[c] = 0;
}

VSAD_HD float largest_of(const float* row, std::int64_t padded) {
    Vector<float> most = {};
    for (std::int64_t c = 0; c < padded; c += kLanes<float>) {
        const Vector<float> x = load(row + c), size = x < 0 ? -x : x;
        most = size > most ? size : most;
    }
    return max_lanes<float>(most);
}

struct Quantized {
    std::int32_t sum;  // sum of the codes
    double squared;    // |scale * codes|^2
    float residual;    // |row - scale * codes|^2

    // An upper bound on |row - scale * codes|: each of the C terms of the residual carries a rounding error of the row.
    double radius(double row_squared, std::int64_t C) const {
        return __builtin_sqrt(double(residual)) * (1 + double(C) * kUnit) + 2 * kUnit * __builtin_sqrt(row_squared);
    }
};

// Quantizes a row to codes in -127..127; `scale` is the value of one step.
inline Quantized quantize_row(std::int8_t* codes, const float* row, float scale, std::int64_t padded) {
    using Bits = VectorOf<float>::integer;
    constexpr int lanes = kLanes<float>;
    typedef std::int8_t Codes __attribute__((vector_size(lanes)));
    const float inverse = scale == 0 ? 0 : 1 / scale, magic = 0x1.8p23f;  // sums with it have no fraction
    Vector<float> residual = {};
    for (std::int64_t c = 0; c < padded; c += lanes) {
        const Vector<float> x = load(row + c), shifted = x * inverse + magic, rest = x - (shifted - magic) * scale;
        residual += rest * rest;
        const Bits rounded = Bits(shifted) - 0x4b400000u;  // minus the bits of magic: the integer itself
        const Codes narrow = __builtin_convertvector(rounded, Codes);
        __builtin_memcpy(codes + c, &narrow, sizeof narrow);
    }
    std::int32_t sum = 0, sum_of_squares = 0;  // neither overflows for up to 2^16 codes
    for (std::int64_t c = 0; c < padded; ++c) sum += codes[c], sum_of_squares += codes[c] * codes[c];
    return {sum, double(scale) * scale * sum_of_squares, sum_lanes<float>(residual)};
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
