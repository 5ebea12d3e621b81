// What a screening thread keeps of the products it holds: the few smallest values of a row, and their prototypes.
#pragma once
#include "prototype_distance/cuda/rows.h"

namespace vsad {
namespace cuda {

constexpr int kChunk = 16;  // values that share one comparison

template <Format format>
struct Sum {
    using type = float;
};
template <>
struct Sum<Format::int8> {
    using type = int;
};

// The screened value of a prototype: |p|^2 / 2 - <f, p>, in units of both rows for int8. It orders prototypes as their
// distances from the coded feature do.
template <Format format>
__device__ __forceinline__ float screened(float factor, float offset, typename Sum<format>::type dot) {
    if constexpr (format == Format::bfloat16)
        return offset - dot;
    else
        return fmaf(factor, offset, -float(dot));
}

template <int n>
struct Constant {
    __device__ constexpr operator int() const { return n; }
};

// f(0), ..., f(n - 1) with constants, so that what they index stays in registers.
template <int n, int i = 0, typename F>
__device__ __forceinline__ void unrolled(F f) {
    if constexpr (i < n) {
        f(Constant<i>{});
        unrolled<n, i + 1>(f);
    }
}

// What a row's values mean, in shared memory.
struct Margin {
    float factor, unit, square, slope, off, flat;

    __device__ __forceinline__ void start(Format format, const Terms& terms, const Stats& stats, std::int64_t C) {
        const float radius = terms.radius + stats.radius[int(format)];
        factor = format == Format::bfloat16 ? 1 : stats.scale[int(format)] / (2 * terms.scale);
        unit = format == Format::bfloat16 ? 1 : stats.scale[int(format)] * terms.scale;
        square = terms.square;
        slope = 2 * radius / unit;
        const float N = stats.length[int(format)];
        off = 2 * screening_error(format, sqrtf(terms.square), N, C) / unit;
        flat = 2 * coding_error(terms.length, terms.radius, N, stats.radius[int(format)]) / unit;
    }

    // Where the limit starts: nothing is taken where nothing can be known.
    __device__ __forceinline__ float limit() const { return slope < kInfinity ? kInfinity : -kInfinity; }

    // The limit that the k nearest, and the certificate that nothing else is as near, will need where the k-th value is
    // `kth`: with D the distance from the coded feature that it says, prototypes up to D + 2 radius, or what coding
    // changes in products, and what rounding may add. A guess, that no result depends on.
    __device__ __forceinline__ float needed(float kth) const {
        if (!(kth < kInfinity)) return kInfinity;
        const float D = sqrtf(fmaxf(0, fmaf(2 * unit, kth, square)));
        const float value = kth + fminf(slope * (D + slope * unit / 2), flat) + off;
        return value + 1e-5f * fabsf(value) + 1e-30f;
    }
};

// The smallest values of a row that a thread saw. `limit` falls; whatever was left out had a value of `limit` at least.
template <int kept>
struct Nearest {
    float value[kept];
    int index[kept];
    float limit;

    __device__ __forceinline__ void start(float first_limit) {
#pragma unroll
        for (int i = 0; i < kept; ++i) value[i] = kInfinity, index[i] = -1;
        limit = first_limit;
    }

    __device__ __forceinline__ void lower(float to) { limit = fminf(limit, to); }
    __device__ __forceinline__ void insert(float v, int i) {  // below limit, and so below the last value
        value[kept - 1] = v;
        index[kept - 1] = i;
#pragma unroll
        for (int j = kept - 1; j > 0; --j) {
            const float low = value[j - 1], high = value[j];
            const int low_index = index[j - 1], high_index = index[j];
            const bool swaps = high < low;
            value[j - 1] = fminf(low, high), value[j] = fmaxf(low, high);
            index[j - 1] = swaps ? +high_index : +low_index, index[j] = swaps ? +low_index : +high_index;
        }
        limit = fminf(limit, value[kept - 1]);
    }

    // Takes the chunk's values below the limit, of which `least` is the smallest.
    __device__ __forceinline__ void take(float (&v)[kChunk], float least, int column) {
        while (least < limit) {
            int at = 0;
#pragma unroll
            for (int i = kChunk - 1; i >= 0; --i) at = v[i] == least ? +i : +at;
            insert(least, column + at / 2 * 8 + at % 2);
            least = kInfinity;
#pragma unroll
            for (int i = 0; i < kChunk; ++i) {
                v[i] = i == at ? +kInfinity : +v[i];
                least = fminf(least, v[i]);
            }
        }
    }

    // An upper bound on the k-th smallest value of the four threads, where each has its share of k. Of values in order
    // the maximum is the last: an index that varies would put them in memory.
    __device__ __forceinline__ float kth(int k) const {
        const int last = (k - 1) / 4;
        float own = last < kept ? -kInfinity : kInfinity;
#pragma unroll
        for (int i = 0; i < kept; ++i) own = fmaxf(own, i <= last ? +value[i] : -kInfinity);
        own = fmaxf(own, __shfl_xor_sync(kWarp, own, 1));
        return fmaxf(own, __shfl_xor_sync(kWarp, own, 2));
    }

    __device__ __forceinline__ void store(Entry* entries, float* bound) const {
#pragma unroll
        for (int i = 0; i < kept; ++i) entries[i] = {value[i], index[i]};
        *bound = limit;
    }
};

// The smallest of the four threads that share a row.
__device__ __forceinline__ float least_of_four(float v) {
    v = fminf(v, __shfl_xor_sync(kWarp, v, 1));
    return fminf(v, __shfl_xor_sync(kWarp, v, 2));
}

// Lowers the limits of a warp's rows, if they took anything, to what their k nearest so far ask for.
template <int kept>
__device__ __forceinline__ void tighten(Nearest<kept>& nearest, const Margin& margin, int k) {
    nearest.lower(margin.needed(k == 1 ? least_of_four(nearest.value[0]) : nearest.kth(k)));
}

template <int n>
__device__ __forceinline__ float least_of(const float (&v)[n]) {
    float least = v[0];
#pragma unroll
    for (int i = 1; i < n; ++i) least = fminf(least, v[i]);
    return least;
}

}  // namespace cuda
}  // namespace vsad
