// How the packed bank and the workspace of a call lie in device memory.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "prototype_distance/arguments.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

enum class Format : int { bfloat16, int8 };  // what rows are quantized to for the tensor cores
// The kernel that screens.
enum class Screen : int { none, mma, wgmma };

constexpr int kFormats = 2;
constexpr int kTileRows = 128;        // features that share a pass over the bank
constexpr int kTilePrototypes = 256;  // the bank is padded to whole tiles of the larger screening kernel
constexpr int kSliceBytes = 128;      // bytes of a row that one stage of shared memory holds: the span of TMA's swizzle
constexpr int kMostOutliers = 32;     // prototypes of unusual size that are measured directly
constexpr int kMostNeighbors = 64;    // largest k
constexpr int kBins = 1024;           // bins of the histogram of sizes: exponents and two bits below them

// What screening must know of the whole bank; filled on the device.
struct BankStatistics {
    float largest_regular;   // a prototype with a larger element is an outlier
    float scale[kFormats];   // value of one quantization step
    float radius[kFormats];  // largest |p - quantized p|
    float length[kFormats];  // largest |quantized p|
    int outliers;            // number of outliers; more than kMostOutliers: the bank cannot be screened
    int zeros;               // nonzero where prototypes of zero length exist, at a cosine distance of 1 to everything
    int outlier[kMostOutliers];
    unsigned count[kBins];  // prototypes per bin, by the size of their largest element
    float largest[kBins];   // largest element per bin
};

// Quantized rows, K-major, `width` bytes per row, zeros beyond column C.
struct QuantizedRows {
    std::int64_t width;
    unsigned char* codes;
    float* offset;  // per prototype: |quantized p|^2 / 2 in bfloat16, the sum of squared codes in int8; infinite
                    // excludes it
};

// A packed bank, read where it lies. All rows are taken relative to `center`; results do not depend on it.
struct Bank {
    std::int64_t rows;   // P rounded up to whole tiles
    std::int64_t bytes;  // size of the packed bank
    BankStatistics* statistics;
    float* center;            // (C,)
    float* largest;           // (P,) largest element of each prototype; negative excludes the prototype
    double* inverse_lengths;  // (P,) for the cosine only; -1 for a row of zeros
    QuantizedRows quantized[kFormats];
};

// What screening must know of one feature.
struct QuantizedFeature {
    float scale;    // value of one quantization step
    float squared;  // |quantized f|^2
    float length;   // |f|
    float radius;   // |f - quantized f|; infinite: this feature cannot be screened
};

// A prototype that may be near: its screened value and its index.
struct Candidate {
    float value;
    std::int32_t index;
};

struct Workspace {
    std::int64_t bytes;
    double* inverse_lengths;              // (M,) as in the bank
    QuantizedFeature* features;           // (rows,)
    unsigned char* codes;                 // (rows, width)
    Candidate* candidates;                // (items, kTileRows, lists, kept)
    float* bounds;                        // (items, kTileRows, lists): every prototype left out has at least this value
    std::int32_t* uncertified[kFormats];  // (M,) features that screening in a format did not certify
    int* counters;                        // number of these per format; then arrivals per row tile of brute force
    unsigned long long* keys;             // (items, kBruteForceRows, k) of brute force where it splits the bank
};

struct DistanceArguments : DistanceCall {
    Screen screen;
    bool formats[kFormats];  // tried in the order int8, bfloat16
    Bank bank;
    Workspace work;
};

struct DistanceGradientArguments : DistanceGradientCall {
    float4* weights;  // (M, k): own_f, other_f, own_p, other_p of each pair
};

VSAD_HD std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

VSAD_HD std::int64_t code_width(std::int64_t C, int format) {
    return round_up(C * (format == int(Format::bfloat16) ? 2 : 1), kSliceBytes);
}

// Lays out a bank, or a call's workspace, from `memory` on; null only counts the bytes. A bank that is not screened
// holds inverse lengths only.
Bank lay_out_bank(char* memory, const DistanceOperands& operands, bool screened, bool int8);
Workspace lay_out_workspace(char* memory, const DistanceArguments& arguments);

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
