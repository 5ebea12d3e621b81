// Exact distances to what screening kept, and the certificate that nothing else is as near.
//
// Let F and P be the coded feature and prototype, N the largest |P|, s = |P|^2 / 2 - <F, P>, and d the distance between
// the rows themselves. Then |F - P|^2 = |F|^2 + 2 s, and the triangle inequality gives d >= |F - P| - R, with R the sum
// of what coding changed in both. For a feature f far from all prototypes p the inequality of Cauchy and Schwarz says
// more: d^2 = |f|^2 + 2 (|p|^2 / 2 - <f, p>), whose second part coding changed by |f - F| N + (|f| + N) |p - P| at
// most. Screening computed v instead of s, which is off
//   - in bfloat16 by the accumulation of K exact products in float32. Tensor cores align some terms to the largest and
//     cut them off below its last place; with groups of as few as 4 products and the sum so far, a term loses at most
//     2^-23 of the largest magnitude, which is at most |F| N by Cauchy and Schwarz, up to its binade: 2 |F| N. So
//     K / 4 groups of 5 terms lose less than 2.5 K 2^-23 |F| N; screening_error takes 3, of K + 16 terms.
//   - in int8 by nothing: the sums of products are whole; turning them into floats rounds once.
//   - by the rounding of |P|^2 / 2 and of the difference: some 2^-24 of |F| N + N^2, and of what |P|^2 was added up of.
// Whatever screening left out has v >= bound, so that d^2 is known from below. A row is certified when that exceeds the
// k-th distance measured, strictly and by the error of measuring: what was left out could not even tie.
#include "prototype_distance/cuda/rows.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// The k nearest of a row over a warp: lane i holds places i and i + 32, in ascending order.
struct Best {
    unsigned long long low = kNothing, high = kNothing;

    __device__ __forceinline__ void push(unsigned long long key) {
        const int lane = threadIdx.x % 32;
        const unsigned long long before_low = __shfl_up_sync(kWarp, low, 1), last = __shfl_sync(kWarp, low, 31);
        const unsigned long long up = __shfl_up_sync(kWarp, high, 1), before_high = lane == 0 ? +last : +up;
        if (low > key) low = lane > 0 && before_low > key ? +before_low : +key;
        if (high > key) high = before_high > key ? +before_high : +key;
    }
    __device__ __forceinline__ unsigned long long at(int place) const {
        return __shfl_sync(kWarp, place < 32 ? low : high, place % 32);
    }
};

// Bounds on distances of one feature.
struct Certificate {
    double unit, square, exact, radius, coding, centring, off, error, under;

    __device__ __forceinline__ Certificate(Format format, const Terms& terms, const Stats& stats, std::int64_t C) {
        const double F2 = terms.square, F = sqrt(F2), N = stats.length[int(format)], sums = (C / 32.0 + 16) * kUnit;
        unit = double(stats.scale[int(format)]) * terms.scale;
        radius = double(terms.radius) + stats.radius[int(format)];
        square = F2 * (1 - 2 * sums);
        exact = double(terms.length) * terms.length * (1 - 4 * sums);
        coding = coding_error<double>(terms.length, terms.radius, N, stats.radius[int(format)]) * 1.001;
        centring = 3 * kUnit * (terms.length + N);
        off = screening_error(format, F, N, C);
        error = direct_error(C);
        under = underflow(C);
    }
    // Whether nothing with a screened value of `value` at least can be as near as a measured squared distance.
    __device__ __forceinline__ bool beyond(float value, float squared) const {
        const double s = unit * value - off, D2 = square + 2 * s, d2 = exact + 2 * (s - coding);
        const double by_triangle = sqrt(D2 > 0 ? D2 : 0) - radius, by_products = sqrt(d2 > 0 ? d2 : 0) - centring;
        const double nearest = (by_triangle > by_products ? by_triangle : by_products) * (1 - 1e-12);
        return nearest > 0 && nearest * nearest * (1 - error) > (squared + under) * (1 + 1e-12);
    }
};

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1)
    rank_kernel(const __grid_constant__ DistanceArguments a, const Format format, const Rows rows, const Shape shape) {
    const int lane = threadIdx.x % 32, count = count_of(rows), k = static_cast<int>(a.k);
    const Cut c = cut(count, a.P, shape, a.k);
    const Stats& stats = *a.bank.stats;
    const int specials = stats.specials, per_row = shape.lists * shape.kept;
    for (std::int64_t i = blockIdx.x * std::int64_t(kWarps) + threadIdx.x / 32; i < count; i += gridDim.x * kWarps) {
        const std::int64_t m = row_at(rows, i);
        const Terms terms = a.work.terms[i];
        bool certified = false;
        Best best;
        if (terms.radius < kInfinity && specials <= kMostSpecial) {
            const Certificate certificate(format, terms, stats, a.C);
            const Row<Element> f(a.features, a.work.inverse, m, a.metric);
            const auto measure = [&](int p) {
                const float squared = squared_distance(f, Row<Element>(a.prototypes, a.bank.inverse, p, a.metric), a.C);
                best.push(key_of(squared, static_cast<unsigned>(p)));
            };
            for (int s = 0; s < specials; ++s) measure(stats.special[s]);

            // segment s has its lists at list_of(s)
            const auto list_of = [&](int segment) {
                const std::int64_t item = segment * std::int64_t(c.row_tiles) + i / kTileRows;
                return (item * kTileRows + i % kTileRows) * shape.lists;
            };
            float bound = kInfinity;
            for (int n = lane; n < c.segments * shape.lists; n += 32)
                bound = fminf(bound, a.work.bound[list_of(n / shape.lists) + n % shape.lists]);
            bound = -warp_max(-bound);

            // The nearest first; each pass finds the next one.
            unsigned long long previous = 0;
            for (;;) {
                unsigned long long next = kNothing;
                int index = -1;
                for (int n = lane; n < c.segments * per_row; n += 32) {
                    const Entry entry = a.work.entries[list_of(n / per_row) * shape.kept + n % per_row];
                    const unsigned long long key = key_of(entry.value, static_cast<unsigned>(n));
                    if (entry.value < kInfinity && key > previous && key < next) next = key, index = entry.index;
                }
                unsigned long long least = next;
#pragma unroll
                for (int step = 16; step > 0; step /= 2) {
                    const unsigned long long other = __shfl_xor_sync(kWarp, least, step);
                    least = other < least ? +other : +least;
                }
                const float value = least == kNothing ? kInfinity : value_of(static_cast<unsigned>(least >> 32));
                const unsigned long long kth = best.at(k - 1);
                const float farthest = value_of(static_cast<unsigned>(kth >> 32));
                if (kth != kNothing) {
                    certified = certificate.beyond(fminf(value, bound), farthest) && !(stats.zeros && farthest >= 2);
                    if (certified) break;
                }
                if (!(value < bound)) break;  // left out was something that may be as near, or there is nothing more
                measure(__shfl_sync(kWarp, index, __ffs(__ballot_sync(kWarp, next == least)) - 1));
                previous = least;
            }
        }
        if (certified) {
            if (lane < k) write_result<Element>(a, m * k + lane, best.low);
            if (lane + 32 < k) write_result<Element>(a, m * k + lane + 32, best.high);
        } else if (lane == 0) {
            a.work.failed[int(format)][atomicAdd(a.work.counters + int(format), 1)] = static_cast<std::int32_t>(m);
        }
    }
}

}  // namespace

void rank(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream) {
    const int blocks = (rows.most + kWarps - 1) / kWarps;
    with_float_type(a.dtype, [&](auto element) {
        launch(rank_kernel<decltype(element)>, dim3(blocks < 8192 ? blocks : 8192), dim3(kThreads), 0, stream, a,
               format, rows, shape_of(a, format));
    });
}

}  // namespace cuda
}  // namespace vsad
