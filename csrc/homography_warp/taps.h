// Where target pixels sample the source: the taps along each axis, their weights, and the slopes of the weights.
//
// V is a number, or on the CPU a vector with one target pixel per lane; T is the number type of V. Modes are counted in
// taps along an axis: n = 1 is nearest, 2 bilinear, 4 bicubic.
#pragma once
#include <type_traits>

#include "common/geometry.h"
#include "homography_warp/arguments.h"

namespace vsad {
namespace VSAD_ISA {

template <typename T>
using Index = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

// The operations that a number and a vector of numbers spell differently; cpu/lane_taps.h has the vectors'.
template <typename V>
struct Arithmetic;
template <>
struct Arithmetic<float> {
    using Number = float;
    using Mask = bool;
    using Indices = Index<float>;

    static VSAD_HD float magnitude(float v) { return __builtin_fabsf(v); }
    static VSAD_HD float minimum(float a, float b) { return __builtin_fminf(a, b); }
    static VSAD_HD float clamp(float v, float low, float high) { return minimum(__builtin_fmaxf(v, low), high); }
    static VSAD_HD float floor(float v) { return __builtin_floorf(v); }
    static VSAD_HD float floor_of_index(float v) { return __builtin_floorf(v); }
    static VSAD_HD float round_to_even(float v) { return __builtin_rintf(v); }
    static VSAD_HD Indices indices(float v) { return Indices(v); }
};

template <typename V>
using NumberOf = typename Arithmetic<V>::Number;
template <typename V>
using Mask = typename Arithmetic<V>::Mask;

template <typename V>
struct Padded {
    V s, slope;  // the padded coordinate, and its derivative with respect to the coordinate before padding
};

// Padding as grid_sample has it. On the border and beyond, the result does not change with s.
template <typename V>
VSAD_HD Padded<V> pad(V s, NumberOf<V> last, Padding padding) {
    using A = Arithmetic<V>;
    using T = NumberOf<V>;
    V slope = V{} + T(1);
    if (padding == Padding::zeros) return {A::clamp(s, T(-4), last + 4), slope};
    if (padding == Padding::reflection) {
        const T period = 2 * (last + 1);
        const V from = s + T(0.5), distance = A::magnitude(from);
        const V ahead = distance - A::floor(distance / period) * period, back = period - ahead;
        slope = (ahead > back) ^ (from < 0) ? -slope : slope;
        s = A::minimum(ahead, back) - T(0.5);
    }
    slope = (s > 0) & (s < last) ? slope : V{};
    return {A::clamp(s, T(0), last), slope};
}

template <typename V, int n>
struct AxisTaps {
    typename Arithmetic<V>::Indices index[n];
    V weight[n], slope[n];  // the slope is d weight / d s
};

// The polynomials of cubic convolution with a = -3/4, as grid_sample has it, in the distance x of a tap: `near` for
// distances up to 1, `far` for those from 1 to 2.
template <typename T>
struct Cubic {
    static constexpr T a = T(-0.75);

    template <typename V>
    static VSAD_HD V near(V x) {
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    }
    template <typename V>
    static VSAD_HD V far(V x) {
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    }
    template <typename V>
    static VSAD_HD V near_slope(V x) {
        return (3 * (a + 2) * x - 2 * (a + 3)) * x;
    }
    template <typename V>
    static VSAD_HD V far_slope(V x) {
        return (3 * a * x - 10 * a) * x + 8 * a;
    }
};

// f is the distance to the second of the four taps.
template <typename V>
VSAD_HD void set_cubic_weights(AxisTaps<V, 4>& taps, V f) {
    using C = Cubic<NumberOf<V>>;
    const V g = 1 - f;
    taps.weight[0] = C::far(f + 1), taps.weight[1] = C::near(f);
    taps.weight[2] = C::near(g), taps.weight[3] = C::far(g + 1);
    taps.slope[0] = C::far_slope(f + 1), taps.slope[1] = C::near_slope(f);
    taps.slope[2] = -C::near_slope(g), taps.slope[3] = -C::far_slope(g + 1);
}

// The taps along one axis. With zeros as the padding they may lie outside the source.
template <int n, typename V>
VSAD_HD AxisTaps<V, n> axis_taps(V s, NumberOf<V> last, Padding padding) {
    using A = Arithmetic<V>;
    using T = NumberOf<V>;
    AxisTaps<V, n> taps;
    if constexpr (n == 4) {
        if (padding != Padding::reflection) s = A::clamp(s, T(-8), last + 8);  // beyond, nothing changes with s
        const V left = A::floor(s);
        set_cubic_weights(taps, s - left);
        for (int k = 0; k < n; ++k) {
            const V tap = left + T(k - 1);
            taps.index[k] = A::indices(padding == Padding::zeros ? tap : pad(tap, last, padding).s);
        }
    } else {
        const Padded<V> padded = pad(s, last, padding);
        if constexpr (n == 1) {
            taps.index[0] = A::indices(A::round_to_even(padded.s));
            taps.weight[0] = V{} + T(1);
            taps.slope[0] = V{};
        } else {
            const V left = A::floor_of_index(padded.s), f = padded.s - left;
            taps.index[0] = A::indices(left);
            taps.index[1] = taps.index[0] + 1;
            if (padding != Padding::zeros)
                taps.index[1] = taps.index[1] > Index<T>(last) ? taps.index[0] : taps.index[1];
            taps.weight[0] = 1 - f, taps.weight[1] = f;
            taps.slope[0] = -padded.slope, taps.slope[1] = padded.slope;
        }
    }
    return taps;
}

// Whether a function may return early where its condition fails: with a number it may; with a vector never, because it
// selects lane by lane.
template <typename M>
VSAD_HD bool skipped(M condition) {
    if constexpr (std::is_same_v<M, bool>)
        return !condition;
    else
        return false;
}

// Where `outside` holds, tap `to` takes the index of tap `from` and its weight, or where that one lies inside (`first`)
// a sliver of its weight: so little that their sum rounds to the weight of `from`, and a pixel that one tap alone reads
// keeps its bits; but not zero.
template <typename V, int n>
VSAD_HD void give_sliver(AxisTaps<V, n>& taps, Mask<V> outside, Mask<V> first, int from, int to) {
    using T = NumberOf<V>;
    if (skipped(outside)) return;
    const V share = first ? V{} + (sizeof(T) == 4 ? T(0x1p-30) : T(0x1p-60)) : V{} + T(1);
    taps.index[to] = outside ? taps.index[from] : taps.index[to];
    taps.weight[to] = outside ? taps.weight[from] * share : taps.weight[to];
    taps.slope[to] = outside ? taps.slope[from] * share : taps.slope[to];
}

// Moves taps that lie outside onto their neighbors inside, for zeros as the padding; returns where at least one lies
// inside. This changes no result, it reads nothing that has no part in the result (zero times infinity is NaN), and
// loops over the taps need no mask.
template <typename V, int n>
VSAD_HD Mask<V> move_inside(AxisTaps<V, n>& taps, Index<NumberOf<V>> last) {
    const Mask<V> touches = (taps.index[n - 1] >= 0) & (taps.index[0] <= last);
    if (skipped(touches)) return touches;
    for (int k = n - 2; k >= 0; --k) give_sliver(taps, taps.index[k] < 0, taps.index[k] == -1, k + 1, k);
    for (int k = 1; k < n; ++k) give_sliver(taps, taps.index[k] > last, taps.index[k] == last + 1, k - 1, k);
    for (int k = 0; k < n; ++k) taps.index[k] = touches ? taps.index[k] : typename Arithmetic<V>::Indices{};
    return touches;
}

template <typename V, int n>
struct Taps {
    AxisTaps<V, n> x, y;
    V sx, sy, Z;    // the projected point, (0, 0) where it is not sampled; Z > 0 everywhere
    Mask<V> alive;  // in front, within the coordinate limit, and at least one tap inside
    Mask<V> valid;  // in front, and within the centers of the border pixels
};

// The source image of one batch as its taps see it.
template <typename T>
struct Source {
    T H[9];
    T last_x, last_y, coordinate_limit;
    Padding padding;

    VSAD_HD Source(const WarpArguments& a, std::int64_t b)
        : last_x(T(Index<T>(a.Ws - 1))),
          last_y(T(Index<T>(a.Hs - 1))),
          coordinate_limit(T(a.coordinate_limit)),
          padding(a.padding) {
        const T* from = static_cast<const T*>(a.homography) + b * a.homography_batch;
        for (int i = 0; i < 9; ++i) H[i] = from[i];
    }

    // The taps of target pixels (x, y); with zeros as the padding they may lie outside, and count as alive.
    template <int n, typename V>
    VSAD_HD Taps<V, n> taps(V x, T y) const {
        Taps<V, n> taps;
        const Projection<V> p = project(H, x, y);
        // NaN fails every comparison, so it is never converted to an integer
        const Mask<V> alive = (p.Z > 0) & (p.x >= -coordinate_limit) & (p.x <= last_x + coordinate_limit) &
                              (p.y >= -coordinate_limit) & (p.y <= last_y + coordinate_limit);
        taps.Z = p.Z > 0 ? p.Z : V{} + T(1);
        taps.sx = alive ? p.x : V{};
        taps.sy = alive ? p.y : V{};
        taps.alive = alive;
        taps.valid = alive & (taps.sx >= 0) & (taps.sx <= last_x) & (taps.sy >= 0) & (taps.sy <= last_y);
        taps.x = axis_taps<n>(taps.sx, last_x, padding);
        taps.y = axis_taps<n>(taps.sy, last_y, padding);
        return taps;
    }
};

}  // namespace VSAD_ISA
}  // namespace vsad
