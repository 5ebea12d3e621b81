// The two arithmetics of greedy_coreset: distances as the reference defines them, and products that screen.
//
// Every distance that is stored is the reference's. Screening only decides which picks cannot be nearer to a point than
// its nearest pick so far, by a rigorous bound. x' = x - center and p' = p - center are rounded once, -|p'|^2 / 2
// once, and their sum with C products at most C + 1 times, so with a = |x'|, b = |p'| the true squared distance is
// at least
//     a^2 - 2 (<x', p'> - b^2 / 2) - slack (a + b)^2 - underflow,    (a + b)^2 <= 2 a^2 + 2 b^2.
// The part with b^2 goes into the offset of each pick, the part with a^2 into the threshold of each candidate.
#pragma once

#include "cpu/arena.h"
#include "cpu/simd.h"
#include "greedy_coreset/cpu/kernels.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace vsad {
namespace VSAD_ISA {
namespace {

// The rows and vectors of a block of products, whose sums fit the registers.
#if defined(__AVX512F__)
constexpr int kRows = 4, kVectors = 3;  // 12 of 32 registers hide the latency, and few rows fill the block
#elif defined(__AVX__)
constexpr int kRows = 6, kVectors = 2;  // 12 of 16 registers
#else
constexpr int kRows = 4, kVectors = 2;  // 8 of 16 registers
#endif
constexpr int kSlice = kVectors * kLanes<float>;
static_assert(kPanel % kSlice == 0, "slices divide a panel");
constexpr double kUnit = 0x1p-24;  // rounding error of a float
constexpr double kHuge = 1e37;     // squared lengths below it cannot overflow a product

template <typename Element>
const Element* row_of(const CoresetArguments& a, std::int64_t index) {
    return reinterpret_cast<const Element*>(a.features) + index * a.stride;
}

// Rounds to 24 bits, so that no order of summation decides between equal distances.
VSAD_HD double round_distance(double x) {
    return bit_cast<double>((bit_cast<std::uint64_t>(x) + (1u << 28)) & ~std::uint64_t((1u << 29) - 1));
}

// |a - b|^2 in eight sums of double, whatever the width of a vector: the same bits on every machine.
template <typename Element>
double squared_distance(const Element* a, const Element* b, std::int64_t C) {
    constexpr int lanes = kLanes<double>, vectors = 8 / lanes;
    Vector<double> sums[vectors] = {};
    std::int64_t c = 0;
    for (; c + 8 <= C; c += 8)
        for (int i = 0; i < vectors; ++i) {
            const Vector<double> d = load_wide<double>(a + c + i * lanes) - load_wide<double>(b + c + i * lanes);
            sums[i] += product(d, d);
        }
    double parts[8];
    for (int i = 0; i < vectors; ++i) store(parts + i * lanes, sums[i]);
    for (; c < C; ++c) {
        const double d = double(widen(a[c])) - double(widen(b[c]));
        parts[c % 8] += product(d, d);
    }
    return round_distance(((parts[0] + parts[1]) + (parts[2] + parts[3])) +
                          ((parts[4] + parts[5]) + (parts[6] + parts[7])));
}

template <typename Element>
bool is_finite(const Element* row, std::int64_t C) {
    for (std::int64_t c = 0; c < C; ++c)
        if (0 * widen(row[c]) != 0) return false;
    return true;
}

double slack(const CoresetArguments& a) { return 1.01 * double(a.C + 16) * kUnit; }

// With a score up to this, a pick is certainly no nearer than `nearest`. NaN, here or in an offset, makes every pair be
// measured.
float threshold(const CoresetArguments& a, double squared, double nearest) {
    if (!(squared < kHuge)) return __builtin_nanf("");
    const double underflow = 4 * double(a.C + 1) * 0x1p-126;
    const double exact = (squared * (1 - 2 * slack(a)) - underflow - nearest) / 2;
    return float(exact - 2 * kUnit * (exact < 0 ? -exact : exact));
}

float offset(const CoresetArguments& a, double squared) {
    return squared < kHuge ? float(-squared * (0.5 - slack(a))) : __builtin_nanf("");
}

// Writes a centered row for screening; returns its squared length.
template <typename Element>
double center_row(float* to, const CoresetArguments& a, const Element* from) {
    double sums[8] = {};
    const std::int64_t padded = padded_channels(a);
    for (std::int64_t c = 0; c < a.C; ++c) to[c] = float(widen(from[c]) - a.center[c]);
    for (std::int64_t c = a.C; c < padded; ++c) to[c] = 0;
    for (std::int64_t c = 0; c < padded; c += 8)
        for (int i = 0; i < 8; ++i) sums[i] += double(to[c + i]) * double(to[c + i]);
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

void put_column(const CoresetArguments& a, float* panel, std::int64_t column, const float* row, double squared) {
    panel[column] = offset(a, squared);
    for (std::int64_t c = 0; c < a.C; ++c) panel[(c + 1) * kPanel + column] = row[c];
}

using Mask = decltype(Vector<float>{} > Vector<float>{});

VSAD_HD bool any(Mask mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX__)
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    std::uint64_t parts[kVectorBytes / 8], all = 0;
    __builtin_memcpy(parts, &mask, sizeof parts);
    for (const std::uint64_t part : parts) all |= part;
    return all != 0;
#endif
}

// The lanes whose score is above the limit, or NaN.
VSAD_HD Mask above(const Vector<float> (&score)[kVectors], float limit) {
    Mask mask{};
    for (int j = 0; j < kVectors; ++j) mask |= ~(score[j] <= limit);
    return mask;
}

// score = <x', p'> + offset for a slice of a panel. The higher the score, the nearer the pick.
VSAD_HD void multiply(Vector<float> (&score)[kRows][kVectors], const float* const (&rows)[kRows], const float* panel,
                      std::int64_t C) {
    constexpr int lanes = kLanes<float>;
    for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kVectors; ++j) score[i][j] = load(panel + j * lanes);
    for (std::int64_t c = 0; c < C; ++c) {
        panel += kPanel;
        for (int i = 0; i < kRows; ++i)
            for (int j = 0; j < kVectors; ++j) score[i][j] += rows[i][c] * load(panel + j * lanes);
    }
}

// The score of one pick, which is given as a row.
VSAD_HD float multiply(const float* row, const float* pick, float offset, std::int64_t padded) {
    Vector<float> sum{};
    for (std::int64_t c = 0; c < padded; c += kLanes<float>) sum += load(row + c) * load(pick + c);
    return sum_lanes<float>(sum) + offset;
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
