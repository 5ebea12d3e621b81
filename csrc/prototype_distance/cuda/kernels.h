// What the binding passes to the prototype_distance kernels, and how the packed bank and the workspace lie in memory.
#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/scalar.h"

namespace vsad {
namespace cuda {

enum class Metric : int { euclidean, sqeuclidean, cosine };  // the codes that Python passes
enum class Format : int { bfloat16, int8 };                  // of what the tensor cores multiply
enum class Screen : int { none, mma, wgmma };                // the kernel that screens

constexpr int kFormats = 2;
constexpr int kTileRows = 128;        // features that share a pass over the bank
constexpr int kTilePrototypes = 256;  // the bank is padded to whole tiles of the larger kernel
constexpr int kSlice = 128;           // bytes of a row that a stage of shared memory holds: what TMA swizzles
constexpr int kMostSpecial = 32;      // prototypes of unusual size, measured directly
constexpr int kMostNeighbors = 64;    // k
constexpr int kBins = 1024;           // of sizes: exponents and two bits below them
constexpr int kMostSegments = 32;     // pieces of the bank that one row tile is screened against

// Rows of floats, their columns side by side.
struct Matrix {
    const void* data;
    std::int64_t row;  // elements from one row to the next
};

// What screening must know of the whole bank; filled on the device.
struct Stats {
    float most;              // prototypes with a larger element are special
    float scale[kFormats];   // a code's unit
    float radius[kFormats];  // the largest |p - coded p|
    float length[kFormats];  // the largest |coded p|
    int specials;            // how many; more than kMostSpecial: the bank cannot be screened
    int zeros;               // whether prototypes without length exist, at a cosine distance of 1 to everything
    int special[kMostSpecial];
    unsigned count[kBins];  // of prototypes, by the size of their largest element
    float largest[kBins];   // element of these prototypes
};

// Rows in codes, K-major: `width` bytes each, zeros where they are longer than C.
struct Coded {
    std::int64_t width;
    unsigned char* codes;
    float* offset;  // a prototype's |coded p|^2 / 2, in units for int8: the sum of squares; infinite: leave it out
};

// A packed bank, read where it lies. All rows are taken relative to `center`; results do not depend on it.
struct Bank {
    std::int64_t rows, bytes;  // padded
    Stats* stats;
    float* center;    // (C,)
    float* largest;   // (P,) a prototype's largest element; negative: leave it out
    double* inverse;  // (P,) one over the length, for the cosine; -1 where it has none
    Coded coded[kFormats];
};

// What screening must know of a feature.
struct Terms {
    float scale, square, length;  // a code's unit, |coded f|^2, |f|
    float radius;                 // |f - coded f|; infinite: this feature cannot be screened
};

// A prototype that may be near: the screened value, and which one it is.
struct Entry {
    float value;
    std::int32_t index;
};

struct Workspace {
    std::int64_t bytes;
    double* inverse;                 // (M,) as the bank's
    Terms* terms;                    // (rows,)
    unsigned char* codes;            // (rows, width)
    Entry* entries;                  // (items, kTileRows, lists, kept): what the lists of an item hold
    float* bound;                    // (items, kTileRows, lists): nothing below was left out
    std::int32_t* failed[kFormats];  // (M,) the features that a format did not settle
    int* counters;                   // how many of these, by format; then arrivals (tiles,)
    unsigned long long* keys;        // (items, kBruteRows, k) of brute force in pieces
};

struct DistanceArguments {
    Scalar dtype;
    Metric metric;
    Screen screen;
    bool formats[kFormats];  // tried in the order int8, bfloat16
    std::int64_t M, P, C, k;
    Matrix features, prototypes;
    void* distances;        // (M, k), contiguous
    std::int64_t* indices;  // (M, k), contiguous
    Bank bank;
    Workspace work;
};

// How a call is served best; see prototype_distance.cu.
struct Choice {
    Screen screen;
    std::array<bool, kFormats> formats;
};
bool codes_in_int8(std::int64_t P, std::int64_t C);
Choice choose(std::int64_t M, std::int64_t P, std::int64_t C, std::int64_t k, bool packed);

// The rows that a pass deals with: all, or those that an earlier pass did not settle.
struct Rows {
    const std::int32_t* list;  // null: all
    const int* count;          // null: `most`
    int most;
};

struct DistanceGradArguments {
    Scalar dtype;
    Metric metric;
    std::int64_t M, P, C, k;
    Matrix features, prototypes;
    const std::int64_t* indices;  // (M, k), as everything below contiguous
    const void* grad_distances;   // (M, k)
    void* grad_features;          // (M, C), or null
    void* grad_prototypes;        // (P, C), or null
    float4* weights;              // (M, k)

    // Places (m, j) of the indices, by the prototype that stands there; its first one.
    const std::int64_t* chosen;  // (M k,)
    const std::int64_t* begin;   // (P + 1,)
};

// How a row tile's pass over the bank is cut: `segments` items, each of `tiles` tiles of prototypes.
struct Cut {
    int row_tiles, segments, tiles;
};

// How a screening kernel keeps what is near: in `lists` threads a row, `kept` each.
struct Shape {
    int tile_prototypes, lists, kept, blocks;
    int cluster;  // blocks that share what they copy of the bank, each with a row tile of its own
};

VSAD_HD std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

VSAD_HD std::int64_t code_width(std::int64_t C, int format) {
    return round_up(C * (format == int(Format::bfloat16) ? 2 : 1), kSlice);
}

// What a bank and a call need, from `memory` on; null counts the bytes only. A bank that is not screened holds lengths.
Bank bank_in(char* memory, std::int64_t P, std::int64_t C, Metric metric, bool screened, bool int8);
Workspace workspace_in(char* memory, const DistanceArguments& arguments);

// Fills the bank that the arguments describe.
void pack_prototypes(const DistanceArguments& arguments, cudaStream_t stream);
// Screens as the arguments say, ranks, and measures what that did not settle.
void prototype_distance(const DistanceArguments& arguments, cudaStream_t stream);
void prototype_distance_backward(const DistanceGradArguments& arguments, cudaStream_t stream);

// The parts of prototype_distance.
void inverse_lengths(const DistanceArguments& a, const Matrix& m, std::int64_t count, double* inverse,
                     cudaStream_t stream);
void code_features(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream);
void screen_mma(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream);
void screen_wgmma(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream);
void rank(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream);
void measure_all(const DistanceArguments& a, const Rows& rows, cudaStream_t stream);

Shape shape_mma(Format format, std::int64_t k);
Shape shape_wgmma(Format format, std::int64_t M, std::int64_t k);
int brute_blocks();
inline Shape shape_of(const DistanceArguments& a, Format format) {
    return a.screen == Screen::wgmma ? shape_wgmma(format, a.M, a.k) : shape_mma(format, a.k);
}

}  // namespace cuda
}  // namespace vsad
