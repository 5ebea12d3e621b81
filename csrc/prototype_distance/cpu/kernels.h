// What the binding passes to the prototype_distance kernels, and the packed bank that they share.
#pragma once
#include <cstdint>

#include "common/scalar.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "prototype_distance/cpu/int8.h"

namespace vsad {

enum class Metric : int { euclidean, sqeuclidean, cosine };  // the codes that Python passes

// A matrix where it lies; strides count elements and may be zero or negative.
struct Matrix {
    const char* data;
    std::int64_t row, column;
};

// A prototype and how far it is; keys order as the distances do, NaN last.
struct Candidate {
    std::uint64_t key;
    std::int64_t index;
};

// Prototypes that screening leaves out. All of one class but `huge` are equally far from a given finite feature,
// so that only the first k of them can be among its nearest.
enum Class : int { regular, huge, zero, infinite, nan, kClasses };

// A packed bank, read where it lies. The layout is the same for every instruction set. All but `huge` rows
// and the like stand in blocks of kBlock, ordered by their largest element, so that those of a block are well
// served by one scale. All rows are taken relative to `center`; results do not depend on it.
struct Bank {
    std::int64_t P, C, blocks, bytes;
    std::int64_t* count;       // (kClasses,) prototypes of each class
    float* center;             // (C,)
    std::int32_t* index;       // (P,) prototypes by class, the regular ones by their largest element
    float* offset;             // (blocks, kBlock) |p|^2 / 2, infinite where the last block is padded
    float* square;             // (blocks,) the largest |p|^2
    float* radius;             // (blocks,) the largest |p - rounded p|: zero but for the rounding of p - center
    Int8Blocks int8;           // the same rows in bytes; without tiles where nothing reads them
    float *square8, *radius8;  // (blocks,) as above, of the bytes
};

struct DistanceArguments {
    Scalar dtype;
    Metric metric;
    int threads;
    std::int64_t M, P, C, k;
    Matrix features, prototypes;
    void* distances;        // (M, k), contiguous
    std::int64_t* indices;  // (M, k), contiguous

    Bank bank;
    const Int8Kernels* int8;  // null: screen in float32
    float* largest;           // (P,) while packing: the largest element of each prototype
    std::int8_t* classes;     // (P,) while packing

    // How the work is cut: features into tiles of `rows`, the bank into `chunks`, with the best of each
    // chunk in candidates (chunks, M, k); null where a screened bank is in one piece.
    std::int64_t rows, chunks;
    Candidate* candidates;
};

struct DistanceGradArguments {
    Scalar dtype;
    Metric metric;
    int threads;
    std::int64_t M, P, C, k;
    Matrix features, prototypes;
    const std::int64_t* indices;  // (M, k), as everything below contiguous
    const void* grad_distances;   // (M, k)
    void* grad_features;          // (M, C), or null
    void* grad_prototypes;        // (P, C), or null
    void* weights;                // (M, k, 2) in the compute dtype

    // Places (m, j) of the indices, by the prototype that stands there; its first one.
    const std::int64_t* chosen;  // (M k,)
    const std::int64_t* begin;   // (P + 1,)
};

constexpr std::int64_t kBruteRows = 64;  // features that share a pass over the bank

#define VSAD_DECLARE(isa, ...)                                             \
    namespace isa {                                                        \
    Work distance_classify(const DistanceArguments& arguments);            \
    Work distance_pack(const DistanceArguments& arguments);                \
    std::int64_t distance_rows(const DistanceArguments& arguments);        \
    Work distance_screen(const DistanceArguments& arguments);              \
    Work distance_brute(const DistanceArguments& arguments);               \
    Work distance_merge(const DistanceArguments& arguments);               \
    Work distance_grad_features(const DistanceGradArguments& arguments);   \
    Work distance_grad_prototypes(const DistanceGradArguments& arguments); \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
