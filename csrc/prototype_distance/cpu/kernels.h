// What the binding passes to the prototype_distance kernels of the CPU, and the packed bank that they share.
#pragma once
#include <cstdint>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "prototype_distance/arguments.h"
#include "prototype_distance/cpu/int8.h"

namespace vsad {

// A prototype and its distance. Keys order as distances do, with NaN last.
struct Neighbor {
    std::uint64_t key;
    std::int64_t index;
};

// Screening leaves out all but regular prototypes. Those of one class other than `huge` are equally far from a given
// finite feature, so that only the first k of them can be among its nearest.
enum Class : int { regular, huge, zero, infinite, nan, kClasses };

// A packed bank, read where it lies; its layout is the same for every instruction set. The regular prototypes stand in
// blocks of kBlock, ordered by their largest element, so that one scale suits a whole block. All rows are taken
// relative to `center`; results do not depend on it.
struct Bank {
    std::int64_t P, C, blocks, bytes;
    std::int64_t* count;  // (kClasses,) prototypes of each class
    float* center;        // (C,)
    std::int32_t* index;  // (P,) prototypes by class, the regular ones by their largest element
    float* offset;        // (blocks, kBlock) |p|^2 / 2, infinite where the last block is padded
    float* squared;       // (blocks,) the largest |p|^2
    float* radius;        // (blocks,) the largest rounding error of p - center
    Int8Blocks int8;      // the same rows in int8; without tiles where nothing reads them
    float* squared_int8;  // (blocks,) the largest |quantized p|^2
    float* radius_int8;   // (blocks,) the largest |p - quantized p|
};

struct DistanceArguments : DistanceCall {
    int threads;
    Bank bank;
    const Int8Kernels* int8;  // null: screen in float32
    float* largest;           // (P,) while packing: the largest element of each prototype
    std::int8_t* classes;     // (P,) while packing

    // How the work is cut: features into tiles of `rows`, the bank into `splits`. The k nearest of each split stand in
    // partial (splits, M, k); null where a screened bank is not split.
    std::int64_t rows, splits;
    Neighbor* partial;
};

struct DistanceGradientArguments : DistanceGradientCall {
    int threads;
    void* weights;  // (M, k, 2) in the compute dtype: own_p and other_p of each pair
};

constexpr std::int64_t kBruteForceRows = 64;  // features that share a pass over the bank

#define VSAD_DECLARE(isa, ...)                                                 \
    namespace isa {                                                            \
    Work distance_classify(const DistanceArguments& arguments);                \
    Work distance_pack(const DistanceArguments& arguments);                    \
    std::int64_t distance_tile_rows(const DistanceArguments& arguments);       \
    Work distance_screened_search(const DistanceArguments& arguments);         \
    Work distance_brute_force(const DistanceArguments& arguments);             \
    Work distance_merge_splits(const DistanceArguments& arguments);            \
    Work distance_grad_features(const DistanceGradientArguments& arguments);   \
    Work distance_grad_prototypes(const DistanceGradientArguments& arguments); \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
