// Screening in float32: the minima that int8.h describes, of rows relative to the bank's center.
#pragma once

#include "prototype_distance/cpu/kernels.h"
#include "prototype_distance/cpu/quantize.h"
#include "prototype_distance/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// The block of dot products that fits the registers: kRows prototypes x kVectors vectors of features.
#if defined(__AVX512F__)
constexpr int kRows = 8, kVectors = 3;  // 24 of 32 registers accumulate
#elif defined(__AVX__)
constexpr int kRows = 4, kVectors = 3;  // 12 of 16
#else
constexpr int kRows = 4, kVectors = 2;  // 8 of 16
#endif
constexpr int kFloatGroup = kVectors * kLanes<float>;  // features side by side: [c][feature]

// Packs the prototypes of a block, interleaved as [c][prototype].
template <typename Element, typename T>
void pack_panel(const DistanceArguments& a, float* panel, float* tile, T* row, std::int64_t block) {
    constexpr int lanes = kLanes<float>;
    const std::int64_t padded = pad_row(a.C), regulars = a.bank.count[regular];
    for (int group = 0; group < kBlock; group += lanes) {
        for (int i = 0; i < lanes; ++i) {
            const std::int64_t at = lesser(block * kBlock + group + i, regulars - 1);  // padding has an infinite offset
            load_row<Element>(row, a.prototypes, a.bank.index[at], a.C, a.metric);
            center_row(tile + i * padded, row, a.bank.center, a.C);
        }
        for (std::int64_t c = 0; c < padded; c += lanes) {
            Vector<float> square[lanes];
            for (int i = 0; i < lanes; ++i) square[i] = load(tile + i * padded + c);
            transpose<float>(square);
            for (int i = 0; i < lanes; ++i) store(panel + (c + i) * kBlock + group, square[i]);
        }
    }
}

VSAD_HD void multiply(Vector<float> (&dots)[kRows][kVectors], const float* features, const float* panel,
                      std::int64_t C) {
    for (std::int64_t c = 0; c < C; ++c, features += kFloatGroup, panel += kBlock)
        for (int i = 0; i < kRows; ++i)
            for (int j = 0; j < kVectors; ++j) dots[i][j] += panel[i] * load(features + j * kLanes<float>);
}

// Writes minima (features,): for each feature the smallest |p|^2 / 2 - <f, p> of a block.
inline void float_minima(float* minima, const float* panels, std::int64_t features, const float* panel,
                         const float* offset, std::int64_t C) {
    for (std::int64_t first = 0; first < features; first += kFloatGroup) {
        Vector<float> least[kVectors];
        for (int j = 0; j < kVectors; ++j) least[j] = broadcast(__builtin_inff());
        for (int row = 0; row < kBlock; row += kRows) {
            Vector<float> dots[kRows][kVectors] = {};
            multiply(dots, panels + first * C, panel + row, C);
            for (int i = 0; i < kRows; ++i)
                for (int j = 0; j < kVectors; ++j) {
                    const Vector<float> score = offset[row + i] - dots[i][j];
                    least[j] = score < least[j] ? score : least[j];
                }
        }
        for (int j = 0; j < kVectors; ++j) store(minima + first + j * kLanes<float>, least[j]);
    }
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
