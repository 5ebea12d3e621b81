// What the prototype_distance kernels share: rows in float32, keys that order as distances do, how work is cut.
#pragma once
#include <climits>

#include "cuda/device.h"
#include "prototype_distance/cuda/kernels.h"

namespace vsad {
namespace cuda {

constexpr float kInfinity = __builtin_inff();
constexpr float kUnit = 0x1p-24f;               // rounding error of a float
constexpr unsigned long long kNothing = ~0ull;  // a key after every prototype's

// A row in float32, of unit length for the cosine. A row without length stays zero.
template <typename Element>
struct Row {
    const Element* data;
    double inverse;
    bool scaled;

    __device__ __forceinline__ Row(const Matrix& m, const double* inverses, std::int64_t row, Metric metric)
        : data(static_cast<const Element*>(m.data) + row * m.row),
          inverse(metric == Metric::cosine ? inverses[row] : 1),
          scaled(metric == Metric::cosine) {}
    __device__ __forceinline__ float operator[](std::int64_t c) const {
        const float x = widen(data[c]);
        return scaled ? static_cast<float>(static_cast<double>(x) * inverse) : x;
    }
    __device__ __forceinline__ bool no_length() const { return scaled && inverse < 0; }
};

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(kWarp, v, step));
    return v;
}

// Unsigned numbers that order as floats do, with NaN above infinity.
__device__ __forceinline__ unsigned key_of(float x) {
    const unsigned bits = x == x ? __float_as_uint(x) : 0x7fc00000u;
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ __forceinline__ float value_of(unsigned key) {
    return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}
__device__ __forceinline__ unsigned long long key_of(float x, unsigned index) {
    return static_cast<unsigned long long>(key_of(x)) << 32 | index;
}

// |f - p|^2 by direct difference, of a warp, in every lane.
template <typename Element>
__device__ __forceinline__ float squared_distance(const Row<Element>& f, const Row<Element>& p, std::int64_t C) {
    const int lane = threadIdx.x % 32;
    float sum = 0;
#pragma unroll 4
    for (std::int64_t c = lane; c < C; c += 32) {
        const float difference = f[c] - p[c];
        sum = fmaf(difference, difference, sum);
    }
    sum = warp_sum(sum);
    return f.no_length() || p.no_length() ? 2.0f : sum;
}

// At most how far that, and brute force's sums, are off, relative; and absolutely, by underflow.
__host__ __device__ __forceinline__ double direct_error(std::int64_t C) { return (C / 16.0 + 32) * kUnit; }
__host__ __device__ __forceinline__ double underflow(std::int64_t C) { return 8.0 * (C + 1) * 0x1p-126; }

// How far the screened value of a feature of length F may be off, N the largest length of a coded prototype; what it is
// made of is argued in prototype_distance_rank.cu.
template <typename T>
__device__ __forceinline__ T screening_error(Format format, T F, T N, std::int64_t C) {
    const T accumulated = format == Format::bfloat16 ? T(3 * 0x1p-23) * T(C + 16) * F * N : T(0);
    return accumulated + T(4 * kUnit) * (F * N + N * N) + (T(C) / 32 + 17) * T(kUnit) * N * N;
}

// What coding changed in half a squared distance, at most, by Cauchy and Schwarz: of a feature of length F by f, of
// prototypes, up to N long, by p.
template <typename T>
__device__ __forceinline__ T coding_error(T F, T f, T N, T p) {
    return f * N + (F + N + p) * p;
}

template <typename Element>
__device__ __forceinline__ void write_result(const DistanceArguments& a, std::int64_t place, unsigned long long key) {
    const float squared = value_of(static_cast<unsigned>(key >> 32));
    const float distance = a.metric == Metric::euclidean ? sqrtf(squared)
                           : a.metric == Metric::cosine  ? squared / 2
                                                         : squared;
    static_cast<Element*>(a.distances)[place] = narrow<Element>(distance);
    a.indices[place] = static_cast<std::int64_t>(key & 0xffffffffu);
}

__host__ __device__ __forceinline__ int least_segments(const Shape& s, std::int64_t k) {
    return s.kept < 8 ? 1 : static_cast<int>((k + 2 * s.lists - 1) / (2 * s.lists));
}

// So many pieces of the bank that the blocks finish at nearly the same time. A list of `kept` should get k' / 2 of the
// k nearest on average, which bounds the pieces from below.
__host__ __device__ __forceinline__ Cut cut(std::int64_t count, std::int64_t P, const Shape& s, std::int64_t k) {
    const int row_tiles = static_cast<int>((count + kTileRows - 1) / kTileRows);
    const int tiles = static_cast<int>((P + s.tile_prototypes - 1) / s.tile_prototypes), least = least_segments(s, k);
    Cut best{row_tiles, 1, tiles};
    if (row_tiles == 0) return best;
    const int teams = s.blocks / s.cluster, team_tiles = (row_tiles + s.cluster - 1) / s.cluster;
    int most = 4 * teams / team_tiles;
    most = most < least ? least : most > kMostSegments ? kMostSegments : most;
    std::int64_t least_cost = LLONG_MAX;
    for (int segments = least < tiles ? least : tiles; segments <= most && segments <= tiles; ++segments) {
        const int each = (tiles + segments - 1) / segments, used = (tiles + each - 1) / each;
        const std::int64_t items = static_cast<std::int64_t>(team_tiles) * used;
        const std::int64_t cost = (items + teams - 1) / teams * (each + 1);  // 1: an item's start and end
        if (cost >= least_cost) continue;
        least_cost = cost;
        best = {row_tiles, used, each};
    }
    return best;
}
// The items of a pass over `rows` features, or over fewer of them, are no more than this.
inline std::int64_t most_items(std::int64_t rows, const Shape& s, std::int64_t k) {
    const std::int64_t row_tiles = (rows + kTileRows - 1) / kTileRows, least = least_segments(s, k);
    const std::int64_t one_round = 4 * static_cast<std::int64_t>(s.blocks);
    return row_tiles * least > one_round ? row_tiles * least : one_round;
}

__device__ __forceinline__ int count_of(const Rows& rows) { return rows.count ? *rows.count : rows.most; }
__device__ __forceinline__ std::int64_t row_at(const Rows& rows, std::int64_t i) {
    return rows.list ? rows.list[i] : i;
}

}  // namespace cuda
}  // namespace vsad
