// The taps of neighboring target pixels of a row, one pixel per lane of a vector.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/arena.h"
#include "cpu/simd.h"
#include "homography_warp/cpu/kernels.h"
#include "homography_warp/taps.h"

namespace vsad {
namespace VSAD_ISA {

// Integers as wide as T, one per lane; also masks, whose lanes are 0 or -1.
template <typename T>
using Integers = decltype(Vector<T>{} < Vector<T>{});

template <typename T>
struct LaneArithmetic {
    using Number = T;
    using Mask = Integers<T>;
    using Indices = Integers<T>;
    using V = Vector<T>;

    static VSAD_HD V magnitude(V v) { return v < 0 ? -v : v; }
    static VSAD_HD V minimum(V a, V b) { return a > b ? b : a; }
    static VSAD_HD V clamp(V v, T low, T high) {
        v = v > low ? v : low - V{};
        return v < high ? v : high - V{};
    }
    static VSAD_HD V floor(V v) {
        constexpr T no_fraction = sizeof(T) == 4 ? T(0x1p23) : T(0x1p52);  // numbers from here on are integers
        const Mask small = (v < no_fraction) & (v > -no_fraction);
        return small ? floor_of_index(small ? v : V{}) : v;
    }
    // |v| must fit Index<T>.
    static VSAD_HD V floor_of_index(V v) {
        const V cut = __builtin_convertvector(indices(v), V);
        return cut > v ? cut - 1 : cut;
    }
    static VSAD_HD V round_to_even(V v) {
        constexpr T magic = sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52);  // the sum has no bits for a fraction
        return (v + magic) - magic;
    }
    static VSAD_HD Indices indices(V v) { return __builtin_convertvector(v, Indices); }
};
template <>
struct Arithmetic<Vector<float>> : LaneArithmetic<float> {};
template <>
struct Arithmetic<Vector<double>> : LaneArithmetic<double> {};

namespace {

template <typename T>
VSAD_HD bool all(Integers<T> mask) {
#if defined(__AVX512DQ__)
    if constexpr (sizeof(T) == 4)
        return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) == 0xffff;
    else
        return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask)) == 0xff;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8(reinterpret_cast<__m256i>(mask)) == -1;
#else
    Index<T> every = -1;
    for (int i = 0; i < kLanes<T>; ++i) every &= mask[i];
    return every != 0;
#endif
}

template <typename T, int n>
struct LaneTaps : Taps<Vector<T>, n> {
    bool none;   // no lane is alive
    bool inner;  // every lane is alive, its taps lie side by side, and `reach` pixels from the first tap on exist
};

template <typename T>
struct LaneSource : Source<T> {
    int reach;

    LaneSource(const WarpArguments& a, std::int64_t b, int reach_) : Source<T>(a, b), reach(reach_) {}

    // The taps of the pixels (x0, y), (x0 + 1, y), ... No tap of a lane that is alive lies outside the source.
    template <int n>
    VSAD_HD LaneTaps<T, n> locate(T x0, T y) const {
        LaneTaps<T, n> taps;  // not in braces: GCC would set all of it to zero first, once per vector of pixels
        static_cast<Taps<Vector<T>, n>&>(taps) = Source<T>::template taps<n>(x0 + lane_numbers<T>(), y);
        const Integers<T>*const columns = taps.x.index, *const rows = taps.y.index;
        const Index<T> last_x = Index<T>(this->last_x), last_y = Index<T>(this->last_y);
        Integers<T> inner =
            taps.alive & (columns[0] >= 0) & (columns[0] <= last_x - reach) & (rows[0] >= 0) & (rows[n - 1] <= last_y);
        if constexpr (n == 2) inner &= (columns[1] > columns[0]) & (rows[1] > rows[0]);
        taps.inner = all<T>(inner);
        if (!taps.inner && this->padding == Padding::zeros)
            taps.alive &= move_inside(taps.x, last_x) & move_inside(taps.y, last_y);
        taps.none = !taps.inner && all<T>(~taps.alive);
        return taps;
    }
};

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
