// Where the pixels of a target row look, kLanes neighbours at once: the taps of each axis and their weights.
//
// A tap outside the source that counts as zero is moved onto its neighbour inside, which gives it half of its weight.
// That is exact, reads nothing that has no part in the result (zero times infinity is NaN), and leaves the loops that
// follow without a mask.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/arena.h"
#include "cpu/simd.h"
#include "homography_warp/cpu/kernels.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

template <typename T>
using Lane = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
template <typename T>
using Whole = decltype(Vector<T>{} < Vector<T>{});  // integers as wide as T; also masks, 0 or -1

template <typename T>
VSAD_HD bool all(Whole<T> mask) {
#if defined(__AVX512DQ__)
    if constexpr (sizeof(T) == 4)
        return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) == 0xffff;
    else
        return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask)) == 0xff;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8(reinterpret_cast<__m256i>(mask)) == -1;
#else
    Lane<T> every = -1;
    for (int i = 0; i < kLanes<T>; ++i) every &= mask[i];
    return every != 0;
#endif
}

template <typename V, typename T>
VSAD_HD V clamp(V v, T low, T high) {
    v = v > low ? v : low - V{};
    return v < high ? v : high - V{};
}

// |s| must fit the integers; from 2^23 or 2^52 on nothing has a fraction.
template <typename T>
VSAD_HD Vector<T> round_down_small(Vector<T> s) {
    const Vector<T> cut = __builtin_convertvector(__builtin_convertvector(s, Whole<T>), Vector<T>);
    return cut > s ? cut - 1 : cut;
}
template <typename T>
VSAD_HD Vector<T> round_down(Vector<T> s) {
    const T whole = sizeof(T) == 4 ? T(0x1p23) : T(0x1p52);
    const Whole<T> small = (s < whole) & (s > -whole);
    return small ? round_down_small<T>(small ? s : Vector<T>{}) : s;
}

template <typename T>
struct Padded {
    Vector<T> at, slope;  // slope = d at / d s
};

// As grid_sample has it: on the border, and beyond, nothing changes with s.
template <typename T>
VSAD_HD Padded<T> pad(Vector<T> s, T last, Padding padding) {
    if (padding == Padding::zeros) return {clamp(s, T(-4), last + 4), broadcast(T(1))};
    Vector<T> slope = broadcast(T(1));
    if (padding == Padding::reflection) {
        const T period = 2 * (last + 1);
        const Vector<T> from = s + T(0.5), distance = from < 0 ? -from : from;
        const Vector<T> ahead = distance - round_down<T>(distance / period) * period, back = period - ahead;
        slope = (ahead > back) ^ (from < 0) ? -slope : slope;
        s = (ahead > back ? back : ahead) - T(0.5);
    }
    slope = (s > 0) & (s < last) ? slope : Vector<T>{};
    return {clamp(s, T(0), last), slope};
}

template <typename T, int n>
struct Axis {
    Whole<T> at[n];
    Vector<T> weight[n], slope[n];  // slope = d weight / d s
};

// Cubic convolution with a = -3/4, as grid_sample has it.
template <typename T>
VSAD_HD void cubic(Axis<T, 4>& axis, Vector<T> f) {
    constexpr T a = T(-0.75);
    const auto near = [](Vector<T> x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
    const auto far = [](Vector<T> x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
    const auto near_slope = [](Vector<T> x) { return (3 * (a + 2) * x - 2 * (a + 3)) * x; };
    const auto far_slope = [](Vector<T> x) { return (3 * a * x - 10 * a) * x + 8 * a; };
    const Vector<T> g = 1 - f;
    axis.weight[0] = far(f + 1), axis.weight[1] = near(f), axis.weight[2] = near(g), axis.weight[3] = far(g + 1);
    axis.slope[0] = far_slope(f + 1), axis.slope[1] = near_slope(f);
    axis.slope[2] = -near_slope(g), axis.slope[3] = -far_slope(g + 1);
}

// The taps of one axis; with zeros as the padding they may lie outside.
template <typename T, int n>
VSAD_HD Axis<T, n> taps_at(Vector<T> s, T last, Padding padding) {
    Axis<T, n> axis;
    if constexpr (n == 4) {
        if (padding != Padding::reflection) s = clamp(s, T(-8), last + 8);  // nothing changes beyond
        const Vector<T> left = round_down<T>(s);
        cubic<T>(axis, s - left);
        for (int k = 0; k < n; ++k)
            axis.at[k] = __builtin_convertvector(
                padding == Padding::zeros ? left + T(k - 1) : pad<T>(left + T(k - 1), last, padding).at, Whole<T>);
    } else {
        const Padded<T> padded = pad<T>(s, last, padding);
        if constexpr (n == 1) {
            const T magic = sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52);  // leaves no bits for a fraction
            axis.at[0] = __builtin_convertvector((padded.at + magic) - magic, Whole<T>);
            axis.weight[0] = broadcast(T(1));
            axis.slope[0] = Vector<T>{};
        } else {
            const Vector<T> left = round_down_small<T>(padded.at), f = padded.at - left;
            axis.at[0] = __builtin_convertvector(left, Whole<T>);
            axis.at[1] = axis.at[0] + 1;
            if (padding != Padding::zeros) axis.at[1] = axis.at[1] > Lane<T>(last) ? axis.at[0] : axis.at[1];
            axis.weight[0] = 1 - f, axis.weight[1] = f;
            axis.slope[0] = -padded.slope, axis.slope[1] = padded.slope;
        }
    }
    return axis;
}

template <typename T, int n>
VSAD_HD void give_half(Axis<T, n>& axis, Whole<T> outside, int from, int to) {
    axis.at[to] = outside ? axis.at[from] : axis.at[to];
    axis.weight[from] = outside ? axis.weight[from] / 2 : axis.weight[from];
    axis.slope[from] = outside ? axis.slope[from] / 2 : axis.slope[from];
    axis.weight[to] = outside ? axis.weight[from] : axis.weight[to];
    axis.slope[to] = outside ? axis.slope[from] : axis.slope[to];
}

// Moves the taps that lie outside inside; returns where at least one is.
template <typename T, int n>
VSAD_HD Whole<T> move_inside(Axis<T, n>& axis, Lane<T> last) {
    const Whole<T> touches = (axis.at[n - 1] >= 0) & (axis.at[0] <= last);
    for (int k = n - 2; k >= 0; --k) give_half<T, n>(axis, axis.at[k] < 0, k + 1, k);
    for (int k = 1; k < n; ++k) give_half<T, n>(axis, axis.at[k] > last, k - 1, k);
    for (int k = 0; k < n; ++k) axis.at[k] = touches ? axis.at[k] : Whole<T>{};
    return touches;
}

template <typename T, int n>
struct Spot {
    Axis<T, n> x, y;
    Vector<T> sx, sy, Z;
    Whole<T> alive;  // in front, and at least one tap inside
    Whole<T> valid;  // in front, and within the centres of the border pixels
    bool nowhere;    // no lane is alive
    bool inner;      // every lane alive, its taps side by side, and `reach` pixels from the first tap on exist
};

// The homography of a batch, and the limits of its source.
template <typename T>
struct Locator {
    T H[9];
    T last_x, last_y, anywhere;
    Padding padding;
    int reach;

    Locator(const WarpArguments& a, std::int64_t b, int reach_)
        : last_x(T(a.Ws - 1)), last_y(T(a.Hs - 1)), anywhere(T(a.anywhere)), padding(a.padding), reach(reach_) {
        __builtin_memcpy(H, static_cast<const T*>(a.homography) + b * a.homography_batch, sizeof H);
    }

    template <int n>
    VSAD_HD Spot<T, n> locate(T x0, T y) const {
        Spot<T, n> spot;
        const Projection<Vector<T>> p = project(H, x0 + lane_numbers<T>(), y);
        const Vector<T> sx = p.x, sy = p.y;
        // NaN fails every comparison, so it is never converted to an integer
        const Whole<T> front =
            (p.Z > 0) & (sx >= -anywhere) & (sx <= last_x + anywhere) & (sy >= -anywhere) & (sy <= last_y + anywhere);
        spot.Z = p.Z > 0 ? p.Z : broadcast(T(1));
        spot.sx = front ? sx : Vector<T>{};
        spot.sy = front ? sy : Vector<T>{};
        spot.valid = front & (spot.sx >= 0) & (spot.sx <= last_x) & (spot.sy >= 0) & (spot.sy <= last_y);
        spot.x = taps_at<T, n>(spot.sx, last_x, padding);
        spot.y = taps_at<T, n>(spot.sy, last_y, padding);
        const Whole<T>*const ax = spot.x.at, *const ay = spot.y.at;
        const Lane<T> reaches = Lane<T>(last_x) - reach;
        Whole<T> inner = front & (ax[0] >= 0) & (ax[0] <= reaches) & (ay[0] >= 0) & (ay[n - 1] <= Lane<T>(last_y));
        if constexpr (n == 2) inner &= (ax[1] > ax[0]) & (ay[1] > ay[0]);
        spot.alive = front;
        spot.inner = all<T>(inner);
        if (!spot.inner && padding == Padding::zeros)
            spot.alive &= move_inside<T, n>(spot.x, Lane<T>(last_x)) & move_inside<T, n>(spot.y, Lane<T>(last_y));
        spot.nowhere = !spot.inner && all<T>(~spot.alive);
        return spot;
    }
};

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
