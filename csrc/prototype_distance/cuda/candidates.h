// How a thread of a screening kernel selects candidates: the smallest screened values of a feature that it sees.
#pragma once
#include "prototype_distance/cuda/error_bounds.h"
#include "prototype_distance/cuda/rows.h"
#include "prototype_distance/cuda/schedule.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

constexpr int kChunk = 16;  // values that share one comparison with the limit

template <Format format>
struct Accumulator {
    using type = float;
};
template <>
struct Accumulator<Format::int8> {
    using type = int;
};

// The screened value |p|^2 / 2 - <f, p>, for int8 in units of both rows' steps. It orders prototypes as their distances
// from the quantized feature do.
template <Format format>
__device__ __forceinline__ float screened(float factor, float offset, typename Accumulator<format>::type dot) {
    if constexpr (format == Format::bfloat16)
        return offset - dot;
    else
        return fmaf(factor, offset, -float(dot));
}

template <int n>
struct Constant {
    __device__ constexpr operator int() const { return n; }
};

// Calls f(0), ..., f(n - 1) with compile-time constants, so that arrays they index stay in registers.
template <int n, int i = 0, typename F>
__device__ __forceinline__ void unrolled(F f) {
    if constexpr (i < n) {
        f(Constant<i>{});
        unrolled<n, i + 1>(f);
    }
}

// All-reduce minimum across the four lanes that share a feature.
__device__ __forceinline__ float min_across_feature(float v) {
    v = fminf(v, __shfl_xor_sync(kWarp, v, 1));
    return fminf(v, __shfl_xor_sync(kWarp, v, 2));
}

// How far beyond a feature's k-th screened value candidates must be kept. Only speed depends on it: re-ranking
// certifies the result whatever was kept.
struct Margin {
    float factor, unit, squared, slope, error, flat;

    __device__ __forceinline__ void start(Format format, const QuantizedFeature& f, const BankStatistics& bank,
                                          std::int64_t C) {
        const float radius = f.radius + bank.radius[int(format)];
        factor = format == Format::bfloat16 ? 1 : bank.scale[int(format)] / (2 * f.scale);
        unit = format == Format::bfloat16 ? 1 : bank.scale[int(format)] * f.scale;
        squared = f.squared;
        slope = 2 * radius / unit;
        const float N = bank.length[int(format)];
        error = 2 * screening_error(format, sqrtf(f.squared), N, C) / unit;
        flat = 2 * quantization_error(f.length, f.radius, N, bank.radius[int(format)]) / unit;
    }

    // The first limit: -infinity, which keeps nothing, for a feature that cannot be screened.
    __device__ __forceinline__ float first_limit() const { return slope < kInfinity ? kInfinity : -kInfinity; }

    // The limit that the certificate will need where the k-th screened value is `kth`: with D the distance from the
    // quantized feature that it stands for, prototypes up to D + 2 radius, or what quantization changes in the dot
    // products if that is less, and the error of screening.
    __device__ __forceinline__ float limit_for(float kth) const {
        if (!(kth < kInfinity)) return kInfinity;
        const float D = sqrtf(fmaxf(0, fmaf(2 * unit, kth, squared)));
        const float value = kth + fminf(slope * (D + slope * unit / 2), flat) + error;
        return value + 1e-5f * fabsf(value) + 1e-30f;
    }
};

// The smallest values that one thread saw of one feature, ascending. The limit only falls, and whatever was left out
// had a value of at least the final limit.
template <int kept>
struct CandidateList {
    float value[kept];
    int index[kept];
    float limit;

    __device__ __forceinline__ void start(float first_limit) {
#pragma unroll
        for (int i = 0; i < kept; ++i) value[i] = kInfinity, index[i] = -1;
        limit = first_limit;
    }

    __device__ __forceinline__ void lower_limit(float to) { limit = fminf(limit, to); }

    // Requires v < limit, which is at most the last value: v replaces the last value and moves to its place.
    __device__ __forceinline__ void insert(float v, int i) {
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

    // Inserts the chunk's values below the limit. `least` is the smallest of them; v[2 j + i] belongs to the prototype
    // of index column + 8 j + i.
    __device__ __forceinline__ void insert_chunk(float (&v)[kChunk], float least, int column) {
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

    // An upper bound on the k-th smallest value of the four lanes, each of which contributes its share of k. The values
    // ascend, so the maximum of the first ones is the last of them; an index that varies would put the array in memory.
    __device__ __forceinline__ float kth_across_feature(int k) const {
        const int last = (k - 1) / 4;
        float own = last < kept ? -kInfinity : kInfinity;
#pragma unroll
        for (int i = 0; i < kept; ++i) own = fmaxf(own, i <= last ? +value[i] : -kInfinity);
        own = fmaxf(own, __shfl_xor_sync(kWarp, own, 1));
        return fmaxf(own, __shfl_xor_sync(kWarp, own, 2));
    }

    __device__ __forceinline__ void store(Candidate* candidates, float* bound) const {
#pragma unroll
        for (int i = 0; i < kept; ++i) candidates[i] = {value[i], index[i]};
        *bound = limit;
    }
};

// Lowers the limit to the one that the k-th nearest found so far requires. The four lanes of a feature call it
// together.
template <int kept>
__device__ __forceinline__ void tighten(CandidateList<kept>& list, const Margin& margin, int k) {
    list.lower_limit(margin.limit_for(k == 1 ? min_across_feature(list.value[0]) : list.kth_across_feature(k)));
}

template <int n>
__device__ __forceinline__ float least_of(const float (&v)[n]) {
    float least = v[0];
#pragma unroll
    for (int i = 1; i < n; ++i) least = fminf(least, v[i]);
    return least;
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
