// Re-ranks candidates by exact distances, and certifies that nothing else is as near.
//
// Let F and P be the quantized feature and prototype, N the largest |P|, s = |P|^2 / 2 - <F, P>, and d the distance
// between the rows themselves. Then |F - P|^2 = |F|^2 + 2 s, and the triangle inequality gives d >= |F - P| - R, where
// R sums what quantization changed in both. For a feature f far from all prototypes, Cauchy-Schwarz says more: d^2 =
// |f|^2 + 2 (|p|^2 / 2 - <f, p>), and quantization changed the second part by |f - F| N + (|f| + N) |p - P| at most.
// Screening computed v instead of s, off by at most screening_error (error_bounds.h). Whatever screening left out has v
// >= bound, which bounds its d^2 from below. A feature is certified when that exceeds the k-th distance measured,
// strictly and by the error of measuring: what was left out could not even tie.
#include "prototype_distance/cuda/error_bounds.h"
#include "prototype_distance/cuda/rows.h"
#include "prototype_distance/cuda/schedule.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;  // five such blocks fit the registers of a multiprocessor

using Key = unsigned long long;

// All-reduce minimum across the lanes of a warp.
__device__ __forceinline__ Key warp_min(Key v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const Key other = __shfl_xor_sync(kWarp, v, step);
        v = other < v ? +other : +v;
    }
    return v;
}

// The nearest prototypes of a feature, spread over a warp: lane i holds places i and i + 32, in ascending order.
struct WarpNearest {
    Key low = kLastKey, high = kLastKey;

    __device__ __forceinline__ void push(Key key) {
        const int lane = threadIdx.x % 32;
        const Key before_low = __shfl_up_sync(kWarp, low, 1), last = __shfl_sync(kWarp, low, 31);
        const Key up = __shfl_up_sync(kWarp, high, 1), before_high = lane == 0 ? +last : +up;
        if (low > key) low = lane > 0 && before_low > key ? +before_low : +key;
        if (high > key) high = before_high > key ? +before_high : +key;
    }
    __device__ __forceinline__ Key at(int place) const {
        return __shfl_sync(kWarp, place < 32 ? low : high, place % 32);
    }
};

// Bounds on the distances of one feature to prototypes that were left out.
struct Certificate {
    double unit, quantized_squared, squared, radius, quantization, centering, screening, direct, under;

    __device__ __forceinline__ Certificate(Format format, const QuantizedFeature& f, const BankStatistics& bank,
                                           std::int64_t C) {
        const double F2 = f.squared, F = sqrt(F2), N = bank.length[int(format)], sums = (C / 32.0 + 16) * kUnit;
        unit = double(bank.scale[int(format)]) * f.scale;
        radius = double(f.radius) + bank.radius[int(format)];
        quantized_squared = F2 * (1 - 2 * sums);
        squared = double(f.length) * f.length * (1 - 4 * sums);
        quantization = quantization_error<double>(f.length, f.radius, N, bank.radius[int(format)]) * 1.001;
        centering = 3 * kUnit * (f.length + N);
        screening = screening_error(format, F, N, C);
        direct = direct_error(C);
        under = underflow(C);
    }
    // Whether no prototype with a screened value of at least `value` can be as near as a measured squared distance.
    __device__ __forceinline__ bool beyond(float value, float measured) const {
        const double s = unit * value - screening, D2 = quantized_squared + 2 * s,
                     d2 = squared + 2 * (s - quantization);
        const double by_triangle = sqrt(D2 > 0 ? D2 : 0) - radius, by_products = sqrt(d2 > 0 ? d2 : 0) - centering;
        const double nearest = (by_triangle > by_products ? by_triangle : by_products) * (1 - 1e-12);
        return nearest > 0 && nearest * nearest * (1 - direct) > (measured + under) * (1 + 1e-12);
    }
};

constexpr int kHeld = 2;  // candidates that a lane holds in registers

// The candidates of one feature, in the lists of every split. The first 32 kHeld are held by the warp; more of them
// remain in memory.
struct CandidateLists {
    const Workspace& work;
    const ScreenShape& shape;
    std::int64_t row;
    int row_tiles, splits;
    Key key[kHeld];
    int held_index[kHeld];

    __device__ __forceinline__ CandidateLists(const Workspace& work, const ScreenShape& shape, std::int64_t row,
                                              const Schedule& schedule)
        : work(work), shape(shape), row(row), row_tiles(schedule.row_tiles), splits(schedule.splits) {
#pragma unroll
        for (int i = 0; i < kHeld; ++i) load(threadIdx.x % 32 + 32 * i, key[i], held_index[i]);
    }
    __device__ __forceinline__ int count() const { return splits * shape.lists * shape.kept; }

    __device__ __forceinline__ std::int64_t first_list(int split) const {
        const std::int64_t item = split * std::int64_t(row_tiles) + row / kTileRows;
        return (item * kTileRows + row % kTileRows) * shape.lists;
    }

    // Candidate n, whose key orders as its screened value does; kLastKey where there is none.
    __device__ __forceinline__ void load(int n, Key& to, int& index) const {
        to = kLastKey, index = -1;
        if (n >= count()) return;
        const int per_split = shape.lists * shape.kept;
        const Candidate candidate = work.candidates[first_list(n / per_split) * shape.kept + n % per_split];
        if (candidate.value < kInfinity)
            to = key_of(candidate.value, static_cast<unsigned>(n)), index = candidate.index;
    }

    // What was left out of every list has at least this value.
    __device__ __forceinline__ float bound() const {
        float bound = kInfinity;
        for (int n = threadIdx.x % 32; n < splits * shape.lists; n += 32)
            bound = fminf(bound, work.bounds[first_list(n / shape.lists) + n % shape.lists]);
        return -warp_max(-bound);
    }

    // The candidate that follows the key `previous` in the order of screened values, and its index, in every lane. The
    // key is kLastKey where there is none.
    __device__ __forceinline__ Key next(Key previous, int& index) const {
        Key mine = kLastKey;
        int mine_index = -1;
        const auto offer = [&](Key other, int other_index) {
            if (other > previous && other < mine) mine = other, mine_index = other_index;
        };
#pragma unroll
        for (int i = 0; i < kHeld; ++i) offer(key[i], held_index[i]);
        for (int n = threadIdx.x % 32 + 32 * kHeld; n < count(); n += 32) {
            Key other;
            int other_index;
            load(n, other, other_index);
            offer(other, other_index);
        }
        const Key least = warp_min(mine);
        index = __shfl_sync(kWarp, mine_index, __ffs(__ballot_sync(kWarp, mine == least)) - 1);
        return least;
    }
};

// Measures outliers and candidates, the nearest candidates first, until the rest is certainly farther. Returns whether
// the k nearest are certified.
template <typename Measure>
__device__ __forceinline__ bool rerank_feature(const DistanceArguments& a, const Certificate& certificate,
                                               const CandidateLists& lists, const WarpNearest& nearest,
                                               Measure measure) {
    const BankStatistics& bank = *a.bank.statistics;
    const int outliers = bank.outliers;
    for (int i = 0; i < outliers; ++i) measure(bank.outlier[i]);
    const float bound = lists.bound();
    for (Key previous = 0;;) {
        int index;
        const Key next = lists.next(previous, index);
        const float value = next == kLastKey ? kInfinity : value_of(next);
        const Key kth = nearest.at(static_cast<int>(a.k) - 1);
        const float farthest = value_of(kth);
        // a squared distance of 2 and more may tie with prototypes of zero length, which no list holds
        if (kth != kLastKey && certificate.beyond(fminf(value, bound), farthest) && !(bank.zeros && farthest >= 2))
            return true;
        if (!(value < bound)) return false;  // something that was left out may be as near, or no candidate is left
        measure(index);
        previous = next;
    }
}

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1)
    rerank_kernel(const __grid_constant__ DistanceArguments a, const Format format, const FeatureList features,
                  const ScreenShape shape) {
    const int lane = threadIdx.x % 32, count = count_of(features), k = static_cast<int>(a.k);
    const Schedule s = schedule(count, a.P, shape, a.k);
    for (std::int64_t i = blockIdx.x * std::int64_t(kWarps) + threadIdx.x / 32; i < count; i += gridDim.x * kWarps) {
        const std::int64_t m = feature_at(features, i);
        const QuantizedFeature feature = a.work.features[i];
        bool certified = false;
        WarpNearest nearest;
        if (feature.radius < kInfinity && a.bank.statistics->outliers <= kMostOutliers) {
            const Certificate certificate(format, feature, *a.bank.statistics, a.C);
            const Row<Element> f(a.features, a.work.inverse_lengths, m, a.metric);
            const auto measure = [&](int p) {
                const Row<Element> prototype(a.prototypes, a.bank.inverse_lengths, p, a.metric);
                nearest.push(key_of(squared_distance(f, prototype, a.C), static_cast<unsigned>(p)));
            };
            const CandidateLists lists(a.work, shape, i, s);
            certified = rerank_feature(a, certificate, lists, nearest, measure);
        }
        if (certified) {
            if (lane < k) write_result<Element>(a, m * k + lane, nearest.low);
            if (lane + 32 < k) write_result<Element>(a, m * k + lane + 32, nearest.high);
        } else if (lane == 0) {
            const int place = atomicAdd(a.work.counters + int(format), 1);
            a.work.uncertified[int(format)][place] = static_cast<std::int32_t>(m);
        }
    }
}

}  // namespace

void rerank(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream) {
    const int blocks = (features.most + kWarps - 1) / kWarps;
    with_float_type(a.dtype, [&](auto element) {
        launch(rerank_kernel<decltype(element)>, dim3(blocks < 8192 ? blocks : 8192), dim3(kThreads), 0, stream, a,
               format, features, shape_of(a, format));
    });
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
