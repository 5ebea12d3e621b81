#include "homography_warp/cpu/kernels.h"

#include "cpu/dispatch.h"
#include "homography_warp/cpu/packed.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kBandRows = 8;  // target rows per item

// out = sum over taps of weight * tap, for channels that lie side by side. V is the widest vector that the channels
// fill; the last vector overlaps the one before.
template <typename V, typename T, typename Element, int taps>
VSAD_HD void blend(Element* to, const Element* const (&from)[taps], const T (&weight)[taps], std::int64_t channels) {
    constexpr std::int64_t lanes = sizeof(V) / sizeof(T);
    for (std::int64_t c = 0; c < channels; c += lanes) {
        c = lesser(c, channels - lanes);
        V sum = weight[0] * load_channels<V, T>(from[0] + c);
        for (int t = 1; t < taps; ++t) sum += weight[t] * load_channels<V, T>(from[t] + c);
        store_channels<Element, T>(to + c, sum);
    }
}

// The target pixels of one vector, one pixel per lane, which are neighbors in a row.
template <typename Element>
struct Group {
    const WarpArguments& a;
    const Element* source;  // the source image of this batch
    Element* to;            // the first target pixel
    int count;              // how many lanes hold a pixel
};

template <typename Element>
void store_zeros(const Group<Element>& g) {
    const WarpArguments& a = g.a;
    if (a.out.channel == 1 && a.out.x == a.C) {
        fill(g.to, g.count * a.C, Element{});
        return;
    }
    for (std::int64_t c = 0; c < a.C; ++c)
        for (int l = 0; l < g.count; ++l) g.to[l * a.out.x + c * a.out.channel] = Element{};
}

// Channels that lie side by side, one pixel after the other.
template <typename Element, typename T, int n>
void blend_channels(const Group<Element>& g, const LaneTaps<T, n>& taps) {
    const WarpArguments& a = g.a;
    T weights[n * n][kLanes<T>];
    Index<T> x[n][kLanes<T>], y[n][kLanes<T>], alive[kLanes<T>];
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < n; ++i) store(weights[j * n + i], taps.y.weight[j] * taps.x.weight[i]);
    __builtin_memcpy(x, taps.x.index, sizeof x);
    __builtin_memcpy(y, taps.y.index, sizeof y);
    __builtin_memcpy(alive, &taps.alive, sizeof alive);
    for (int l = 0; l < g.count; ++l) {
        Element* to = g.to + l * a.out.x;
        if (!alive[l]) {
            fill(to, a.C, Element{});
            continue;
        }
        const Element* from[n * n];
        T weight[n * n];
        for (int j = 0; j < n; ++j)
            for (int i = 0; i < n; ++i) {
                from[j * n + i] = g.source + y[j][l] * a.input.y + x[i][l] * a.input.x;
                weight[j * n + i] = weights[j * n + i][l];
            }
        if (a.C >= kLanes<T>)
            blend<Vector<T>, T>(to, from, weight, a.C);
        else if (a.C * std::int64_t(sizeof(T)) >= kVectorBytes / 2)
            blend<typename Wide<T, greater(16, kVectorBytes / 2)>::type, T>(to, from, weight, a.C);
        else
            blend<typename Wide<T, 16>::type, T>(to, from, weight, a.C);
    }
}

// Any strides, one channel of all pixels after the other.
template <typename Element, typename T, int n>
void blend_lanes(const Group<Element>& g, const LaneTaps<T, n>& taps) {
    const WarpArguments& a = g.a;
    Integers<T> offset[n * n];
    Vector<T> weight[n * n];
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < n; ++i) {
            offset[j * n + i] = taps.y.index[j] * Index<T>(a.input.y) + taps.x.index[i] * Index<T>(a.input.x);
            weight[j * n + i] = taps.y.weight[j] * taps.x.weight[i];
        }
    for (std::int64_t c = 0; c < a.C; ++c) {
        const Element* from = g.source + c * a.input.channel;
        Vector<T> sum = weight[0] * gather<T>(from, offset[0]);
        for (int t = 1; t < n * n; ++t) sum += weight[t] * gather<T>(from, offset[t]);
        store_lanes<Element, T>(g.to + c * a.out.channel, a.out.x, taps.alive ? sum : Vector<T>{}, g.count);
    }
}

// Any strides, where offsets need more bits than a lane has.
template <typename Element, typename T, int n>
void blend_far(const Group<Element>& g, const LaneTaps<T, n>& taps) {
    const WarpArguments& a = g.a;
    for (int l = 0; l < g.count; ++l)
        for (std::int64_t c = 0; c < a.C; ++c) {
            T sum = 0;
            for (int j = 0; taps.alive[l] && j < n; ++j)
                for (int i = 0; i < n; ++i)
                    sum += taps.y.weight[j][l] * taps.x.weight[i][l] *
                           widen(g.source[taps.y.index[j][l] * a.input.y + taps.x.index[i][l] * a.input.x +
                                          c * a.input.channel]);
            g.to[l * a.out.x + c * a.out.channel] = narrow<Element>(sum);
        }
}

template <typename Element, int n>
void forward_band(const void* arguments, std::int64_t item, char*) {
    using T = typename Compute<Element>::type;
    const WarpArguments& a = *static_cast<const WarpArguments*>(arguments);
    const std::int64_t bands = (a.H + kBandRows - 1) / kBandRows, b = item / bands, begin = item % bands * kBandRows;
    const Element* source = reinterpret_cast<const Element*>(a.input.data) + b * a.input.batch;
    const Packed packed = packed_as<Element, n>(a);
    const bool side_by_side = a.input.channel == 1 && a.out.channel == 1 && a.C * sizeof(T) >= 16;
    const bool far = !side_by_side && !fits_lane<T>(a);
    const LaneSource<T> lanes(a, b, reach_of<Element, n>(packed));
    Patience patience(a.W * (kLocate + a.C * n * n));
    for (std::int64_t y = begin; y < lesser(begin + kBandRows, a.H) && !patience.ends(); ++y)
        for (std::int64_t x = 0; x < a.W; x += kLanes<T>) {
            const LaneTaps<T, n> taps = lanes.template locate<n>(T(x), T(y));
            const int count = int(lesser<std::int64_t>(kLanes<T>, a.W - x));
            if (a.mask) store_bytes<T>(a.mask + (b * a.H + y) * a.W + x, taps.valid & 1, count);
            Element* to = reinterpret_cast<Element*>(a.out.data) + b * a.out.batch + y * a.out.y + x * a.out.x;
            const Group<Element> group{a, source, to, count};
            if (taps.none) {
                store_zeros(group);
                continue;
            }
            if constexpr (has_packed<Element, n>)
                if (packed != Packed::no && taps.inner) {
                    blend_packed(packed, a, source, to, count, taps);
                    continue;
                }
            if (side_by_side)
                blend_channels(group, taps);
            else if (far)
                blend_far(group, taps);
            else
                blend_lanes(group, taps);
        }
}

template <typename Element>
Work forward_work(const WarpArguments& a) {
    Work work{a.B * ((a.H + kBandRows - 1) / kBandRows), a.threads, 0, &forward_band<Element, 1>};
    if (a.mode == Mode::bilinear) work.run = &forward_band<Element, 2>;
    if (a.mode == Mode::bicubic) work.run = &forward_band<Element, 4>;
    return work;
}

}  // namespace

Work homography_warp_forward(const WarpArguments& a) {
    if (a.dtype == Scalar::uint8) return forward_work<std::uint8_t>(a);
    return with_float_type(a.dtype, [&](auto element) { return forward_work<decltype(element)>(a); });
}

}  // namespace VSAD_ISA
}  // namespace vsad
