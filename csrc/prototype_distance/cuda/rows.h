// What the prototype_distance kernels share: rows in float32, direct distances, keys that order as distances do.
#pragma once
#include "cuda/device.h"
#include "prototype_distance/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

constexpr float kInfinity = __builtin_inff();
constexpr unsigned long long kLastKey = ~0ull;  // orders after the key of every prototype

// The elements of a row that are loaded at once where the row allows it: 16 bytes.
template <typename Element>
constexpr int kPack = 16 / sizeof(Element);

// A row in float32, normalized to unit length for the cosine. A row of zeros stays zero.
template <typename Element>
struct Row {
    const Element* data;
    double inverse_length;
    bool normalized;

    __device__ __forceinline__ Row(const Matrix& m, const double* inverse_lengths, std::int64_t row, Metric metric)
        : data(static_cast<const Element*>(m.data) + row * m.row),
          inverse_length(metric == Metric::cosine ? inverse_lengths[row] : 1),
          normalized(metric == Metric::cosine) {}
    __device__ __forceinline__ float operator[](std::int64_t c) const {
        const float x = widen(data[c]);
        return normalized ? static_cast<float>(static_cast<double>(x) * inverse_length) : x;
    }
    template <int n>
    __device__ __forceinline__ void load(std::int64_t c, float (&to)[n]) const {
        load_pack(data + c, to);
#pragma unroll
        for (int i = 0; i < n; ++i)
            if (normalized) to[i] = static_cast<float>(static_cast<double>(to[i]) * inverse_length);
    }
    __device__ __forceinline__ bool has_packs(std::int64_t C) const {
        return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && C % kPack<Element> == 0;
    }
    __device__ __forceinline__ bool has_no_direction() const { return normalized && inverse_length < 0; }
};

// All-reduce across the lanes of a warp.
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(kWarp, v, step));
    return v;
}

// Unsigned integers that order as floats do, with NaN above infinity.
__device__ __forceinline__ unsigned key_of(float x) {
    const unsigned bits = x == x ? __float_as_uint(x) : 0x7fc00000u;
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ __forceinline__ float value_of(unsigned key) {
    return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}
// The lower index comes first where values are equal.
__device__ __forceinline__ unsigned long long key_of(float x, unsigned index) {
    return static_cast<unsigned long long>(key_of(x)) << 32 | index;
}
__device__ __forceinline__ float value_of(unsigned long long key) { return value_of(static_cast<unsigned>(key >> 32)); }

template <int n, typename Element>
__device__ __forceinline__ float sum_of_squares(const Row<Element>& f, const Row<Element>& p, std::int64_t C) {
    float sum = 0;
#pragma unroll(n == 1 ? 4 : 1)
    for (std::int64_t c = threadIdx.x % 32 * n; c < C; c += 32 * n) {
        float own[n], other[n];
        f.load(c, own);
        p.load(c, other);
#pragma unroll
        for (int i = 0; i < n; ++i) sum = fmaf(own[i] - other[i], own[i] - other[i], sum);
    }
    return warp_sum(sum);
}

// |f - p|^2 by direct difference; a warp computes it and every lane gets it. Without a direction the cosine distance is
// 1, that is 2 as the squared distance between rows of unit length.
template <typename Element>
__device__ __forceinline__ float squared_distance(const Row<Element>& f, const Row<Element>& p, std::int64_t C) {
    const float sum =
        f.has_packs(C) && p.has_packs(C) ? sum_of_squares<kPack<Element>>(f, p, C) : sum_of_squares<1>(f, p, C);
    return f.has_no_direction() || p.has_no_direction() ? 2.0f : sum;
}

// Writes the distance and the index of a key to position `at` of the outputs.
template <typename Element>
__device__ __forceinline__ void write_result(const DistanceArguments& a, std::int64_t at, unsigned long long key) {
    const float squared = value_of(key);
    const float distance = a.metric == Metric::euclidean ? sqrtf(squared)
                           : a.metric == Metric::cosine  ? squared / 2
                                                         : squared;
    static_cast<Element*>(a.distances)[at] = narrow<Element>(distance);
    a.indices[at] = static_cast<std::int64_t>(key & 0xffffffffu);
}

__device__ __forceinline__ int count_of(const FeatureList& features) {
    return features.count ? *features.count : features.most;
}
__device__ __forceinline__ std::int64_t feature_at(const FeatureList& features, std::int64_t i) {
    return features.list ? features.list[i] : i;
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
