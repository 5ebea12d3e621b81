// What greedy_coreset knows of a point: where it lies, how far it is, and a bound that tells which picks to measure.
//
// Every distance that decides is the reference's: summed in float64, rounded to 24 bits. It stands in a key of 64 bits
// that orders points as they are picked: 34 bits of the rounded distance above 30 bits that fall with the index. No two
// points have the same key, and a picked point has 0.
//
// Screening works on halves. A row x becomes h = half(scale * (x - center)), one scale for all rows; whatever halves
// lose is measured: residual >= |scale * (x - center) - h|. By the triangle inequality a pick p can only be nearer to m
// than the distance r to m's nearest pick so far if
//     |h_m - h_p| < reach + residual_p,    reach = scale * r + residual_m.
// Squared, with 2 reach residual_p <= reach^2 / 1024 + 1024 residual_p^2, so that point and pick separate:
//     <h_m, h_p> + offset_p > threshold_m,
//     offset_p = -|h_p|^2 / 2 + 513 residual_p^2,    threshold_m = |h_m|^2 / 2 - reach^2 (1 + 1/1024) / 2.
// The tensor cores start from the offset, multiply halves exactly and lose at most 2^-22 of the largest partial sum
// at each addition (they are seen to keep 24 bits or more); `slack` counts 2^-21 of the sum of all magnitudes for each,
// which is at most |h_m|^2 / 2 + |h_p|^2 / 2 + |offset|, and so goes into threshold and offset one by one.
// A row that halves cannot hold has h = 0 and an infinite residual: it is always measured.
#pragma once
#include "cuda/device.h"
#include "greedy_coreset/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace coreset {

using Key = unsigned long long;

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kLanes = 8, kGroups = kThreads / kLanes;  // that measure a distance together
constexpr int kChunk = 64;                              // channels that are staged at once: rows of 128 bytes
constexpr int kIndexBits = 30;
constexpr Key kLastIndex = (Key(1) << kIndexBits) - 1;
constexpr Key kInfinity = Key(0x7ff) << 23;  // as a rounded distance
constexpr float kNever = -__builtin_inff();  // a score that no threshold lets through

// A block has one point of every row of the grid; which one turns, so that data with a period spread evenly.
struct Layout {
    int M, blocks, rows;  // rows: places of a block, the last may be empty

    __device__ int turn(int row) const { return static_cast<int>(std::int64_t(row) * 37 % blocks); }
    __device__ int point(int block, int row) const { return row * blocks + (block + turn(row)) % blocks; }
    __device__ int count(int block) const { return rows - (point(block, rows - 1) >= M); }
    __device__ int block(int m) const { return (m % blocks + blocks - turn(m / blocks)) % blocks; }
    __device__ int place(int m) const { return block(m) * rows + m / blocks; }
};

struct Bound {
    float square, residual;  // |h|^2, rounded; how far h is at most from the row; NaN where the row is not finite
};

struct State {
    CoresetArguments arguments;
    Layout layout;
    int offered, padded;  // keys that each block offers but one; channels of a row of halves, a multiple of 8
    float slack;
    float16* halves;  // (blocks * rows, padded), block by block
    Key* keys;        // (blocks * rows,), and so on
    float* thresholds;
    Bound* bounds;
    Key* offers;          // (blocks, offered + 1), each block's highest
    unsigned* distances;  // between candidates
};

__device__ __forceinline__ Key key_of(Key rounded, int m) { return rounded << kIndexBits | (kLastIndex - m); }
__device__ __forceinline__ Key rounded_of(Key key) { return key >> kIndexBits; }
__device__ __forceinline__ int index_of(Key key) { return static_cast<int>(kLastIndex - (key & kLastIndex)); }

// To 24 bits, so that no order of summation decides between equal distances. NaN is no distance.
__device__ __forceinline__ Key rounded_distance(double squared) {
    return squared == squared ? (bit_cast<Key>(squared) + (1u << 28)) >> 29 : kInfinity;
}

__device__ __forceinline__ int group_lane() { return threadIdx.x % kLanes; }
__device__ __forceinline__ int group() { return threadIdx.x / kLanes; }

__device__ __forceinline__ double group_sum(double v) {
    const unsigned mask = 0xffu << (threadIdx.x % 32 / kLanes * kLanes);
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) v += __shfl_xor_sync(mask, v, step);
    return v;
}

// Between two points, by a group of lanes; all of them get it. The same bits as the CPU's: eight sums, added in pairs.
// Each lane loads `ahead` channels of both rows before it waits for one.
template <typename Element, int ahead>
__device__ __forceinline__ Key measure(const State& s, int m, int p) {
    const Element* features = reinterpret_cast<const Element*>(s.arguments.features);
    const Element *x = features + m * s.arguments.stride, *y = features + p * s.arguments.stride;
    double sum = 0;
#pragma unroll ahead
    for (std::int64_t c = group_lane(); c < s.arguments.C; c += kLanes) {
        const double d = double(widen(x[c])) - double(widen(y[c]));
        sum = __dadd_rn(sum, __dmul_rn(d, d));
    }
    return rounded_distance(group_sum(sum));
}

// The largest row of the sample comes to 2^10: rows 32 times as large still fit, and 2^24 times smaller ones keep all
// bits of a half.
__device__ __forceinline__ double scale_of(const State& s) {
    const float spread = *s.arguments.spread;
    if (!(spread > 0 && spread < __builtin_inff())) return 1;
    const int exponent = static_cast<int>(bit_cast<unsigned>(spread) >> 23) - 127;
    return bit_cast<double>(Key(10 - exponent + 1023) << 52);
}

// The row in halves, and its bound.
template <typename Element>
__device__ __forceinline__ Bound pack_row(const State& s, double scale, int m, float16* to) {
    const Element* from = reinterpret_cast<const Element*>(s.arguments.features) + m * s.arguments.stride;
    double square = 0, residual = 0;
#pragma unroll 4
    for (int c = group_lane(); c < s.padded; c += kLanes) {
        const double x = c < s.arguments.C ? (double(widen(from[c])) - double(s.arguments.center[c])) * scale : 0;
        to[c] = narrow<float16>(static_cast<float>(x));
        const double half = widen(to[c]);
        square += half * half;
        residual += (x - half) * (x - half);
    }
    square = group_sum(square);
    residual = group_sum(residual);
    if (residual < __builtin_inf())  // what stands before `scale` is rounded in float64
        return {static_cast<float>(square),
                static_cast<float>(sqrt(residual) * (1 + 0x1p-20) + (sqrt(square) + sqrt(residual)) * 0x1p-50)};
    for (int c = group_lane(); c < s.padded; c += kLanes) to[c] = {0};
    return {0, static_cast<float>(residual)};
}

// Rounded down; +inf where nothing can come nearer.
__device__ __forceinline__ float threshold_of(const State& s, double scale, Key rounded, Bound bound) {
    if (rounded == 0) return __builtin_inff();
    const double reach = scale * sqrt(bit_cast<double>(rounded << 29)) * (1 + 0x1p-23) + bound.residual;
    const double exact = (bound.square * (1.0 - s.slack) - reach * reach * (1 + 0x1p-10)) / 2;
    return static_cast<float>(exact - fabs(exact) * 0x1p-22 - 0x1p-100);
}

// Rounded up; a pick that is not finite is near nobody.
__device__ __forceinline__ float offset_of(const State& s, Bound bound) {
    if (!(bound.residual >= 0)) return kNever;
    const double residual = bound.residual;
    const double exact = 513 * residual * residual * (1 + 2 * double(s.slack)) - bound.square * (0.5 - 1.5 * s.slack);
    return static_cast<float>(exact + fabs(exact) * 0x1p-22 + 0x1p-100);
}

// Every point's halves, and what it knows once `start` is picked.
template <typename Element>
__device__ __forceinline__ void prepare(const State& s, double scale) {
    const int block = blockIdx.x, count = s.layout.count(block);
    for (int row = group(); row < count; row += kGroups) {
        const int m = s.layout.point(block, row), start = static_cast<int>(s.arguments.start);
        const std::int64_t place = std::int64_t(block) * s.layout.rows + row;
        const Bound bound = pack_row<Element>(s, scale, m, s.halves + place * s.padded);
        const Key distance = measure<Element, 8>(s, m, start);
        if (group_lane()) continue;
        // A row that is not finite counts as covered, and covers nothing.
        const Key rounded = bound.residual == bound.residual ? distance : 0;
        s.bounds[place] = bound;
        s.keys[place] = m == start ? 0 : key_of(rounded, m);
        s.thresholds[place] = m == start ? __builtin_inff() : threshold_of(s, scale, rounded, bound);
    }
}

}  // namespace coreset
}  // namespace cuda
}  // namespace vsad
