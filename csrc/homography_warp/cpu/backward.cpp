// An item of work is one batch and one group of channels. It alone adds to their gradients, and visits the target
// pixels in order, so there are no atomics, and the result is the same for any number of threads. Gradients narrower
// than float32 are added up in scratch memory.
#include "homography_warp/cpu/kernels.h"

#include "cpu/dispatch.h"
#include "homography_warp/cpu/lanes.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// The tensors of one item, from its batch and first channel on; `result`, `grad_input` and `homography` are null where
// they are not needed.
template <typename Element, typename T>
struct Item {
    const WarpArguments& a;
    const Element *input, *grad_out;
    Element* result;  // the input's gradient
    T* grad_input;    // the same while it is added up
    ImageView to;     // has the strides of grad_input
    double* homography;
    std::int64_t channels;

    Item(const WarpGradients& g, std::int64_t item, char* scratch) : a(g.forward), to(g.input) {
        const std::int64_t b = item / g.groups, group = item % g.groups;
        const std::int64_t first = group * a.C / g.groups;
        channels = (group + 1) * a.C / g.groups - first;
        input = reinterpret_cast<const Element*>(a.input.data) + b * a.input.batch + first * a.input.channel;
        grad_out = reinterpret_cast<const Element*>(a.out.data) + b * a.out.batch + first * a.out.channel;
        result = to.data ? reinterpret_cast<Element*>(to.data) + b * to.batch + first * to.channel : nullptr;
        homography = g.homography ? g.homography + item * 9 : nullptr;
        if constexpr (std::is_same_v<Element, T>) {
            grad_input = result;
        } else {
            grad_input = reinterpret_cast<T*>(scratch);
            to.channel = pixels() ? 1 : a.Hs * a.Ws;
            to.x = pixels() ? channels : 1;
            to.y = to.x * a.Ws;
        }
    }
    static std::int64_t scratch_bytes(const WarpGradients& g) {
        if (std::is_same_v<Element, T> || !g.input.data) return 0;
        return (g.forward.C + g.groups - 1) / g.groups * g.forward.Hs * g.forward.Ws * std::int64_t(sizeof(T));
    }

    bool pixels() const { return to.channel == 1; }  // the channels of a pixel lie side by side

    // Calls f(row of grad_input, row of the result, length): what lies side by side in both.
    template <typename F>
    void for_each_row(const WarpGradients& g, F f) const {
        const std::int64_t outer = pixels() ? a.Hs : channels, inner = pixels() ? a.Ws : a.Hs;
        const std::int64_t length = pixels() ? channels : a.Ws;
        Patience patience(length);
        for (std::int64_t i = 0; i < outer; ++i)
            for (std::int64_t j = 0; j < inner && !patience.ends(); ++j)
                f(grad_input + (pixels() ? i * to.y + j * to.x : i * to.channel + j * to.y),
                  result + (pixels() ? i * g.input.y + j * g.input.x : i * g.input.channel + j * g.input.y), length);
    }
};

template <typename Element, typename T>
void narrow_row(Element* to, const T* from, std::int64_t length) {
    constexpr int lanes = kLanes<T>;
    for (std::int64_t i = 0; i < length; i += lanes)
        store_lanes<Element, T>(to + i, 1, load_lanes<T, T>(from + i, 1, int(lesser<std::int64_t>(lanes, length - i))),
                                int(lesser<std::int64_t>(lanes, length - i)));
}

// The gradients of the projected points of neighboring pixels, one pixel per lane.
template <typename T>
struct PointGradients {
    T x[kLanes<T>], y[kLanes<T>];
};

// The taps of one pixel, and the factors of its gradient in the gradients of each tap and of the projected point.
template <typename Element, typename T, int taps>
struct PixelTaps {
    const Element* from[taps];
    T* to[taps];
    T weight[taps], slope_x[taps], slope_y[taps];
};

// Scatters the channels [c, channels) in whole vectors V; returns the first channel that is left. Adds <grad, slope *
// tap>, summed over the taps, to gx and gy.
template <typename V, bool need_input, bool need_homography, typename Element, typename T, int taps>
VSAD_HD std::int64_t scatter(const PixelTaps<Element, T, taps>& at, const Element* grad, std::int64_t c,
                             std::int64_t channels, T& gx, T& gy) {
    constexpr std::int64_t lanes = sizeof(V) / sizeof(T);
    V sum_x = {}, sum_y = {};
    for (; c + lanes <= channels; c += lanes) {
        const V g = load_channels<V, T>(grad + c);
        if constexpr (need_homography) {
            V dx = {}, dy = {};
            for (int t = 0; t < taps; ++t) {
                const V v = load_channels<V, T>(at.from[t] + c);
                dx += at.slope_x[t] * v;
                dy += at.slope_y[t] * v;
            }
            sum_x += g * dx;
            sum_y += g * dy;
        }
        if constexpr (need_input)
            for (int t = 0; t < taps; ++t)  // one after the other: taps may coincide
                store_channels<T, T>(at.to[t] + c, load_channels<V, T>(at.to[t] + c) + at.weight[t] * g);
    }
    if constexpr (need_homography) {
        T x[lanes], y[lanes];
        __builtin_memcpy(x, &sum_x, sizeof x);
        __builtin_memcpy(y, &sum_y, sizeof y);
        if constexpr (std::is_same_v<V, Vector<T>>) {
            gx += sum_lanes<T>(load(x)), gy += sum_lanes<T>(load(y));
        } else {
            for (int i = 0; i < lanes; ++i) gx += x[i], gy += y[i];
        }
    }
    return c;
}

// Channels that lie side by side, one pixel after the other.
template <bool need_input, bool need_homography, typename Element, typename T, int n>
void scatter_channels(const Item<Element, T>& item, const Element* grad_out, int count, const LaneTaps<T, n>& taps,
                      PointGradients<T>& points) {
    const WarpArguments& a = item.a;
    T weight[n * n][kLanes<T>], slope_x[n * n][kLanes<T>], slope_y[n * n][kLanes<T>];
    Index<T> x[n][kLanes<T>], y[n][kLanes<T>], alive[kLanes<T>];
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < n; ++i) {
            store(weight[j * n + i], taps.y.weight[j] * taps.x.weight[i]);
            store(slope_x[j * n + i], taps.y.weight[j] * taps.x.slope[i]);
            store(slope_y[j * n + i], taps.y.slope[j] * taps.x.weight[i]);
        }
    __builtin_memcpy(x, taps.x.index, sizeof x);
    __builtin_memcpy(y, taps.y.index, sizeof y);
    __builtin_memcpy(alive, &taps.alive, sizeof alive);
    for (int l = 0; l < count; ++l) {
        if (!alive[l]) continue;
        PixelTaps<Element, T, n * n> at;
        for (int j = 0; j < n; ++j)
            for (int i = 0; i < n; ++i) {
                const std::int64_t row = y[j][l], column = x[i][l];
                const int t = j * n + i;
                at.from[t] = item.input + row * a.input.y + column * a.input.x;
                if (need_input) at.to[t] = item.grad_input + row * item.to.y + column * item.to.x;
                at.weight[t] = weight[t][l], at.slope_x[t] = slope_x[t][l], at.slope_y[t] = slope_y[t][l];
            }
        const Element* grad = grad_out + l * a.out.x;
        T gx = 0, gy = 0;
        std::int64_t c = scatter<Vector<T>, need_input, need_homography>(at, grad, 0, item.channels, gx, gy);
        c = scatter<typename Wide<T, 16>::type, need_input, need_homography>(at, grad, c, item.channels, gx, gy);
        scatter<T, need_input, need_homography>(at, grad, c, item.channels, gx, gy);
        points.x[l] = gx, points.y[l] = gy;
    }
}

// Any strides, one channel of all pixels after the other.
template <bool need_input, bool need_homography, typename Element, typename T, int n>
void scatter_lanes(const Item<Element, T>& item, const Element* grad_out, int count, const LaneTaps<T, n>& taps,
                   PointGradients<T>& points) {
    const WarpArguments& a = item.a;
    constexpr int lanes = kLanes<T>;
    Index<T> x[n][lanes], y[n][lanes], alive[lanes];
    __builtin_memcpy(x, taps.x.index, sizeof x);
    __builtin_memcpy(y, taps.y.index, sizeof y);
    __builtin_memcpy(alive, &taps.alive, sizeof alive);
    std::int64_t from[n * n][lanes], to[n * n][lanes];
    Vector<T> weight[n * n], sum_x = {}, sum_y = {};
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < n; ++i) {
            weight[j * n + i] = taps.y.weight[j] * taps.x.weight[i];
            for (int l = 0; l < lanes; ++l) {
                from[j * n + i][l] = y[j][l] * a.input.y + x[i][l] * a.input.x;
                to[j * n + i][l] = y[j][l] * item.to.y + x[i][l] * item.to.x;
            }
        }
    for (std::int64_t c = 0; c < item.channels; ++c) {
        const Vector<T> all_g = load_lanes<Element, T>(grad_out + c * a.out.channel, a.out.x, count);
        const Vector<T> g = taps.alive ? all_g : Vector<T>{};
        if constexpr (need_homography) {
            const Element* input = item.input + c * a.input.channel;
            for (int j = 0; j < n; ++j)
                for (int i = 0; i < n; ++i) {
                    T values[lanes];
                    for (int l = 0; l < lanes; ++l) values[l] = widen(input[from[j * n + i][l]]);
                    const Vector<T> product = g * load(values);
                    sum_x += taps.y.weight[j] * taps.x.slope[i] * product;
                    sum_y += taps.y.slope[j] * taps.x.weight[i] * product;
                }
        }
        if constexpr (need_input) {
            T* grad_input = item.grad_input + c * item.to.channel;
            T parts[n * n][lanes];
            for (int t = 0; t < n * n; ++t) store(parts[t], weight[t] * g);
            for (int l = 0; l < count; ++l)
                for (int t = 0; alive[l] && t < n * n; ++t) grad_input[to[t][l]] += parts[t][l];
        }
    }
    store(points.x, sum_x), store(points.y, sum_y);
}

// The homography's gradient from one row of target pixels: the sums for its first and last columns. The second column
// is y times the last, because y is the same in all of the row.
struct RowGradient {
    double by_x[3] = {}, by_one[3] = {};

    template <typename T, int n>
    VSAD_HD void add(const PointGradients<T>& points, const LaneTaps<T, n>& taps, std::int64_t x0, int count) {
        const Projection<Vector<T>> p{taps.sx, taps.sy, taps.Z};
        const Gradient3<Vector<T>> d = project_backward(p, load(points.x), load(points.y));
        T column[3][kLanes<T>];
        Index<T> alive[kLanes<T>];
        __builtin_memcpy(alive, &taps.alive, sizeof alive);
        store(column[0], d.X), store(column[1], d.Y), store(column[2], d.Z);
        for (int l = 0; l < count; ++l)
            for (int i = 0; alive[l] && i < 3; ++i) {
                by_x[i] += double(column[i][l]) * double(x0 + l);
                by_one[i] += double(column[i][l]);
            }
    }
    void add_to(double* homography, std::int64_t y) const {
        for (int i = 0; i < 3; ++i) {
            homography[3 * i + 0] += by_x[i];
            homography[3 * i + 1] += by_one[i] * double(y);
            homography[3 * i + 2] += by_one[i];
        }
    }
};

template <typename Element, int n, bool need_input, bool need_homography>
void backward_of(const WarpGradients& gradients, std::int64_t number, char* scratch) {
    using T = typename Compute<Element>::type;
    const Item<Element, T> item(gradients, number, scratch);
    const WarpArguments& a = item.a;
    if constexpr (need_input)
        item.for_each_row(gradients, [](T* sum, Element*, std::int64_t length) { fill(sum, length, T(0)); });
    const LaneSource<T> lanes(a, number / gradients.groups, n - 1);
    const bool side_by_side = a.input.channel == 1 && a.out.channel == 1 && (!need_input || item.to.channel == 1) &&
                              item.channels * sizeof(T) >= 16;
    Patience patience(a.W * (kLocate + 2 * item.channels * n * n));
    for (std::int64_t y = 0; y < a.H && !patience.ends(); ++y) {
        RowGradient row;
        for (std::int64_t x = 0; x < a.W; x += kLanes<T>) {
            const LaneTaps<T, n> taps = lanes.template locate<n>(T(x), T(y));
            if (taps.none) continue;
            const int count = int(lesser<std::int64_t>(kLanes<T>, a.W - x));
            const Element* grad_out = item.grad_out + y * a.out.y + x * a.out.x;
            PointGradients<T> points = {};
            if (side_by_side)
                scatter_channels<need_input, need_homography>(item, grad_out, count, taps, points);
            else
                scatter_lanes<need_input, need_homography>(item, grad_out, count, taps, points);
            if constexpr (need_homography) row.add(points, taps, x, count);
        }
        if constexpr (need_homography) row.add_to(item.homography, y);
    }
    if constexpr (need_input && !std::is_same_v<Element, T>)
        item.for_each_row(gradients,
                          [](const T* sum, Element* to, std::int64_t length) { narrow_row(to, sum, length); });
}

template <typename Element, int n>
void backward_item(const void* arguments, std::int64_t item, char* scratch) {
    const WarpGradients& g = *static_cast<const WarpGradients*>(arguments);
    if (g.input.data && g.homography && n > 1)  // nearest is constant almost everywhere in the homography
        backward_of<Element, n, true, (n > 1)>(g, item, scratch);
    else if (g.input.data)
        backward_of<Element, n, true, false>(g, item, scratch);
    else if (n > 1)
        backward_of<Element, n, false, (n > 1)>(g, item, scratch);
}

template <typename Element>
Work backward_work(const WarpGradients& g) {
    const std::int64_t bytes = Item<Element, typename Compute<Element>::type>::scratch_bytes(g);
    Work work{g.forward.B * g.groups, g.forward.threads, bytes, &backward_item<Element, 1>};
    if (g.forward.mode == Mode::bilinear) work.run = &backward_item<Element, 2>;
    if (g.forward.mode == Mode::bicubic) work.run = &backward_item<Element, 4>;
    return work;
}

}  // namespace

Work homography_warp_backward(const WarpGradients& g) {
    return with_float_type(g.forward.dtype, [&](auto element) { return backward_work<decltype(element)>(g); });
}

}  // namespace VSAD_ISA
}  // namespace vsad
