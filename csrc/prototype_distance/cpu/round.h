// Rows relative to the bank's centre, and rounded to bytes, with bounds on what rounding changed.
#pragma once

#include "cpu/arena.h"
#include "cpu/simd.h"
#include "prototype_distance/cpu/kernels.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr double kUnit = 0x1p-24;              // rounding error of a float
constexpr double kCenterError = 1.01 * kUnit;  // of a centred row, relative to its length
constexpr double kHuge = 1e36;                 // squared lengths that may overflow a float when added up
constexpr float kLeastScale = 1e-30f;          // below it 1 / scale may overflow; rows count as zero

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

struct Rounded {
    std::int32_t sum;  // of the bytes
    double squared;    // |scale * bytes|^2
    float residual;    // |row - scale * bytes|^2

    // |row - scale * bytes| at most: its terms carry a rounding error of the row's, and there are C of them.
    double radius(double row_squared, std::int64_t C) const {
        return __builtin_sqrt(double(residual)) * (1 + double(C) * kUnit) + 2 * kUnit * __builtin_sqrt(row_squared);
    }
};

// Rounds a row to bytes in -127..127, of which `scale` is the unit.
inline Rounded round_row(std::int8_t* bytes, const float* row, float scale, std::int64_t padded) {
    using Bits = VectorOf<float>::integer;
    constexpr int lanes = kLanes<float>;
    typedef std::int8_t Bytes __attribute__((vector_size(lanes)));
    const float inverse = scale == 0 ? 0 : 1 / scale, magic = 0x1.8p23f;  // whose sums have no fraction
    Vector<float> residual = {};
    for (std::int64_t c = 0; c < padded; c += lanes) {
        const Vector<float> x = load(row + c), shifted = x * inverse + magic, rest = x - (shifted - magic) * scale;
        residual += rest * rest;
        const Bits rounded = Bits(shifted) - 0x4b400000u;  // the bits of magic
        const Bytes narrow = __builtin_convertvector(rounded, Bytes);
        __builtin_memcpy(bytes + c, &narrow, sizeof narrow);
    }
    std::int32_t sum = 0, squares = 0;  // of at most 2^16 bytes
    for (std::int64_t c = 0; c < padded; ++c) sum += bytes[c], squares += bytes[c] * bytes[c];
    return {sum, double(scale) * scale * squares, sum_lanes<float>(residual)};
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
