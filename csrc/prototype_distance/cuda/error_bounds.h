// Bounds on how far computed values are off; the certificate of rerank.cu is made of them.
#pragma once
#include "cuda/launch.h"
#include "prototype_distance/cuda/bank.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

constexpr float kUnit = 0x1p-24f;  // relative rounding error of one float32 operation

// The relative error of a direct squared distance, of a warp or of brute force, and its absolute error by underflow.
__host__ __device__ __forceinline__ double direct_error(std::int64_t C) { return (C / 16.0 + 32) * kUnit; }
__host__ __device__ __forceinline__ double underflow(std::int64_t C) { return 8.0 * (C + 1) * 0x1p-126; }

// The absolute error of the screened value s = |P|^2 / 2 - <F, P> of quantized rows F and P, where N is the largest
// length of a quantized prototype.
//   - bfloat16: K exact products are accumulated in float32. Tensor cores align terms to the largest and cut them off
//     below its last bit; with groups of as few as 4 products and the running sum, each term loses at most 2^-23 of the
//     largest magnitude, which Cauchy-Schwarz bounds by |F| N up to its binade: 2 |F| N. So K / 4 groups of 5 terms
//     lose less than 2.5 K 2^-23 |F| N; 3 (K + 16) is taken.
//   - int8: integer accumulation is exact, and the conversion to float rounds once.
//   - Both round |P|^2 / 2 and the difference, by some 2^-24 (|F| N + N^2), and |P|^2 itself was summed in float32.
template <typename T>
__device__ __forceinline__ T screening_error(Format format, T F, T N, std::int64_t C) {
    const T accumulated = format == Format::bfloat16 ? T(3 * 0x1p-23) * T(C + 16) * F * N : T(0);
    return accumulated + T(4 * kUnit) * (F * N + N * N) + (T(C) / 32 + 17) * T(kUnit) * N * N;
}

// A bound, by Cauchy-Schwarz, on what quantization changes in half a squared distance: of a feature of length F moved
// by f, and of prototypes of quantized length up to N moved by p.
template <typename T>
__device__ __forceinline__ T quantization_error(T F, T f, T N, T p) {
    return f * N + (F + N + p) * p;
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
