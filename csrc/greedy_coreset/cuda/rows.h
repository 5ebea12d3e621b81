// The state of greedy_coreset per point: where it lies, how far it is, and a bound that decides which picks to measure.
//
// Every distance that decides is the reference's: summed in float64, rounded to 24 bits. It is part of a 64-bit key
// that ranks points as they are picked: 34 bits of the rounded distance above 30 bits that decrease with the index. No
// two points have the same key, and a picked point has key 0.
//
// Screening works in float16. A row x becomes h = float16(scale * (x - center)), with one scale for all rows, and the
// rounding error is measured: residual >= |scale * (x - center) - h|. By the triangle inequality a pick p can only be
// nearer to m than the distance r to m's nearest pick so far if
//     |h_m - h_p| < reach + residual_p,    reach = scale * r + residual_m.
// Squared, with 2 reach residual_p <= reach^2 / 1024 + 1024 residual_p^2, so that terms of point and pick separate:
//     <h_m, h_p> + offset_p > threshold_m,
//     offset_p = -|h_p|^2 / 2 + 513 residual_p^2,    threshold_m = |h_m|^2 / 2 - reach^2 (1 + 1/1024) / 2.
// The tensor cores start from the offset, multiply float16 exactly and lose at most 2^-22 of the largest partial sum in
// each addition (measurements show that they keep 24 bits or more). `slack` allows 2^-21 of the sum of all magnitudes
// for each. That sum is at most |h_m|^2 / 2 + |h_p|^2 / 2 + |offset|, and so divides into a part of the threshold and a
// part of the offset. A row that float16 cannot hold has h = 0 and an infinite residual: it is always measured.
#pragma once
#include "cuda/device.h"
#include "greedy_coreset/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace coreset {

using Key = unsigned long long;

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kLanes = 8, kGroups = kThreads / kLanes;  // kLanes lanes measure a distance together
constexpr int kChunk = 64;                              // channels staged at once, in rows of 128 bytes
constexpr int kIndexBits = 30;
constexpr Key kLastIndex = (Key(1) << kIndexBits) - 1;
constexpr Key kInfinity = Key(0x7ff) << 23;  // infinity as a rounded distance
constexpr float kNever = -__builtin_inff();  // a score that passes no threshold

// Points form a grid of `rows` x `blocks`. A block has one point of every row, in a place of that number; which one
// rotates from row to row, so that periodic data spread evenly. The last place of a block may be empty.
struct Layout {
    int M, blocks, rows;

    __device__ int rotation(int row) const { return static_cast<int>(std::int64_t(row) * 37 % blocks); }
    __device__ int point(int block, int row) const { return row * blocks + (block + rotation(row)) % blocks; }
    __device__ int count(int block) const { return rows - (point(block, rows - 1) >= M); }
    __device__ int block(int m) const { return (m % blocks + blocks - rotation(m / blocks)) % blocks; }
    __device__ int place(int m) const { return block(m) * rows + m / blocks; }
};

struct Bound {
    float square;    // |h|^2, rounded
    float residual;  // how far h is from the row at most; NaN where the row is not finite
};

struct State {
    CoresetArguments arguments;
    Layout layout;
    int offered;  // a block offers this many keys, and one more that is the limit to its others
    int padded;   // channels of a rounded row, a multiple of 8
    float slack;
    float16* rounded;     // (blocks * rows, padded)
    Key* keys;            // (blocks * rows,)
    float* thresholds;    // (blocks * rows,)
    Bound* bounds;        // (blocks * rows,)
    Key* offers;          // (blocks, offered + 1), the highest keys of each block, descending
    unsigned* distances;  // between pairs of candidates, a triangle
};

__device__ __forceinline__ Key key_of(Key rounded, int m) { return rounded << kIndexBits | (kLastIndex - m); }
__device__ __forceinline__ Key rounded_of(Key key) { return key >> kIndexBits; }
__device__ __forceinline__ int index_of(Key key) { return static_cast<int>(kLastIndex - (key & kLastIndex)); }

// Rounds to 24 bits, so that no order of summation decides between equal distances. NaN counts as infinite.
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

// The distance between two points, measured by a group of lanes, all of which get it. The same bits as on the CPU:
// eight sums, added in pairs. Each lane loads `ahead` channels of both rows before it waits for the first.
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

// Scales the largest row of the sample to about 2^10: elements 32 times as large still fit float16, and those 2^24
// times smaller keep all bits of a float16.
__device__ __forceinline__ double scale_of(const State& s) {
    const float spread = *s.arguments.spread;
    if (!(spread > 0 && spread < __builtin_inff())) return 1;
    const int exponent = static_cast<int>(bit_cast<unsigned>(spread) >> 23) - 127;
    return bit_cast<double>(Key(10 - exponent + 1023) << 52);
}

// Rounds a row to float16; returns its bound.
template <typename Element>
__device__ __forceinline__ Bound pack_row(const State& s, double scale, int m, float16* to) {
    const Element* from = reinterpret_cast<const Element*>(s.arguments.features) + m * s.arguments.stride;
    double square = 0, residual = 0;
#pragma unroll 4
    for (int c = group_lane(); c < s.padded; c += kLanes) {
        const double x = c < s.arguments.C ? (double(widen(from[c])) - double(s.arguments.center[c])) * scale : 0;
        to[c] = narrow<float16>(static_cast<float>(x));
        const double h = widen(to[c]);
        square += h * h;
        residual += (x - h) * (x - h);
    }
    square = group_sum(square);
    residual = group_sum(residual);
    if (residual < __builtin_inf())  // the last term covers the rounding of x in float64
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

// Rounds every point, and compares it with the first pick.
template <typename Element>
__device__ __forceinline__ void prepare(const State& s, double scale) {
    const int block = blockIdx.x, count = s.layout.count(block);
    for (int row = group(); row < count; row += kGroups) {
        const int m = s.layout.point(block, row), start = static_cast<int>(s.arguments.start);
        const std::int64_t place = std::int64_t(block) * s.layout.rows + row;
        const Bound bound = pack_row<Element>(s, scale, m, s.rounded + place * s.padded);
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
