// The call of prototype_distance as the bindings pass it to the kernels of the CPU and of the GPU.
#pragma once
#include <cstdint>

#include "common/scalar.h"

namespace vsad {

// Each code is the metric's position in METRICS of vsad/ops/prototype_distance/call.py.
enum class Metric : int { euclidean, sqeuclidean, cosine };

// A matrix where it lies. Strides count elements and may be zero or negative; the CUDA kernels need `column` == 1.
struct Matrix {
    const void* data;
    std::int64_t row, column;
};

// What the forward and the backward are both called with.
struct DistanceOperands {
    Scalar dtype;
    Metric metric;
    std::int64_t M, P, C, k;
    Matrix features, prototypes;  // (M, C) and (P, C)
};

struct DistanceCall : DistanceOperands {
    void* distances;        // (M, k), contiguous
    std::int64_t* indices;  // (M, k), contiguous
};

// Every array is contiguous. A pair is one entry (m, j) of the indices, numbered m * k + j.
struct DistanceGradientCall : DistanceOperands {
    const std::int64_t* indices;  // (M, k)
    const void* grad_distances;   // (M, k)
    void* grad_features;          // (M, C), or null where nobody asked for it
    void* grad_prototypes;        // (P, C), or null where nobody asked for it

    // The pairs sorted by prototype: those of prototype p are sorted_pairs[begin[p]] to sorted_pairs[begin[p + 1] - 1].
    const std::int64_t* sorted_pairs;  // (M k,)
    const std::int64_t* begin;         // (P + 1,)
};

}  // namespace vsad
