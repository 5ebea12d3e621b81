// What the binding passes to the prototype_distance kernels.
#pragma once
#include <cstdint>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/scalar.h"

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

struct DistanceArguments {
    Scalar dtype;
    Metric metric;
    int threads;
    std::int64_t M, P, C, k;
    Matrix features, prototypes;
    void* distances;        // (M, k), contiguous
    std::int64_t* indices;  // (M, k), contiguous

    // Screening: subtracted from all rows. Results do not depend on it; near the bank's mean it cancels
    // least.
    const float* center;
    float* offset;  // (P,), what `prepare` finds out about the bank

    // Brute force: the bank in `chunks`, and the best of each chunk (chunks, M, k).
    std::int64_t chunks;
    Candidate* candidates;
};

constexpr std::int64_t kBruteRows = 64;  // features that share a pass over the bank

// Two ways to the same answer: prepare then screen, or brute then merge.
#define VSAD_DECLARE(isa, ...)                                 \
    namespace isa {                                            \
    bool distance_screens(const DistanceArguments& arguments); \
    Work distance_prepare(const DistanceArguments& arguments); \
    Work distance_screen(const DistanceArguments& arguments);  \
    Work distance_brute(const DistanceArguments& arguments);   \
    Work distance_merge(const DistanceArguments& arguments);   \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
