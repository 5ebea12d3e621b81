// One item is a batch and a group of channels: it owns what it adds to, and visits the target's pixels in order. So
// there are no atomics, and the result is the same for any number of threads.
#include "homography_warp/cpu/kernels.h"
#include "homography_warp/cpu/lanes.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// The source, its gradient and the gradient that comes in, at the group's first channel and at this batch; `grad_input`
// and `homography` are null where they are not needed.
template <typename Element, typename T>
struct Part {
    const WarpArguments& a;
    const Picture& to;  // strides of grad_input
    const Element *input, *grad_out;
    T* grad_input;
    double* homography;
    std::int64_t channels;

    Part(const WarpGradients& g, std::int64_t item) : a(g.forward), to(g.input) {
        const std::int64_t b = item / g.groups, group = item % g.groups;
        const std::int64_t first = group * a.C / g.groups;
        channels = (group + 1) * a.C / g.groups - first;
        input = reinterpret_cast<const Element*>(a.input.data) + b * a.input.batch + first * a.input.channel;
        grad_out = reinterpret_cast<const Element*>(a.out.data) + b * a.out.batch + first * a.out.channel;
        grad_input = to.data ? reinterpret_cast<T*>(to.data) + b * to.batch + first * to.channel : nullptr;
        homography = g.homography ? g.homography + item * 9 : nullptr;
    }
};

// The gradients (gx, gy) of the projected points of a group of pixels, one a lane.
template <typename T>
struct Slopes {
    T x[kLanes<T>], y[kLanes<T>];
};

// One pixel's taps, and what its gradient counts for in each: in the tap, and in the projected point.
template <typename Element, typename T, int taps>
struct Taps {
    const Element* from[taps];
    T* to[taps];
    T weight[taps], slope_x[taps], slope_y[taps];
};

// Channels [c, channels) in vectors V; returns the first that does not fit one. gx and gy receive <grad, slope * taps>.
template <typename V, bool need_input, bool need_homography, typename Element, typename T, int taps>
VSAD_HD std::int64_t spread(const Taps<Element, T, taps>& at, const Element* grad, std::int64_t c,
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
            for (int t = 0; t < taps; ++t)  // taps may coincide: one after the other
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

// Pixels whose channels lie side by side.
template <bool need_input, bool need_homography, typename Element, typename T, int n>
void spread_rows(const Part<Element, T>& part, const Element* grad_out, int count, const Spot<T, n>& spot,
                 Slopes<T>& slopes) {
    const WarpArguments& a = part.a;
    T weight[n * n][kLanes<T>], slope_x[n * n][kLanes<T>], slope_y[n * n][kLanes<T>];
    Lane<T> x[n][kLanes<T>], y[n][kLanes<T>], alive[kLanes<T>];
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < n; ++i) {
            store(weight[j * n + i], spot.y.weight[j] * spot.x.weight[i]);
            store(slope_x[j * n + i], spot.y.weight[j] * spot.x.slope[i]);
            store(slope_y[j * n + i], spot.y.slope[j] * spot.x.weight[i]);
        }
    __builtin_memcpy(x, spot.x.at, sizeof x);
    __builtin_memcpy(y, spot.y.at, sizeof y);
    __builtin_memcpy(alive, &spot.alive, sizeof alive);
    for (int l = 0; l < count; ++l) {
        if (!alive[l]) continue;
        Taps<Element, T, n * n> at;
        for (int j = 0; j < n; ++j)
            for (int i = 0; i < n; ++i) {
                const std::int64_t row = y[j][l], column = x[i][l];
                const int t = j * n + i;
                at.from[t] = part.input + row * a.input.y + column * a.input.x;
                if (need_input) at.to[t] = part.grad_input + row * part.to.y + column * part.to.x;
                at.weight[t] = weight[t][l], at.slope_x[t] = slope_x[t][l], at.slope_y[t] = slope_y[t][l];
            }
        const Element* grad = grad_out + l * a.out.x;
        T gx = 0, gy = 0;
        std::int64_t c = spread<Vector<T>, need_input, need_homography>(at, grad, 0, part.channels, gx, gy);
        c = spread<typename Wide<T, 16>::type, need_input, need_homography>(at, grad, c, part.channels, gx, gy);
        spread<T, need_input, need_homography>(at, grad, c, part.channels, gx, gy);
        slopes.x[l] = gx, slopes.y[l] = gy;
    }
}

// Any strides, one channel after the other.
template <bool need_input, bool need_homography, typename Element, typename T, int n>
void spread_lanes(const Part<Element, T>& part, const Element* grad_out, int count, const Spot<T, n>& spot,
                  Slopes<T>& slopes) {
    const WarpArguments& a = part.a;
    constexpr int lanes = kLanes<T>;
    Lane<T> x[n][lanes], y[n][lanes], alive[lanes];
    __builtin_memcpy(x, spot.x.at, sizeof x);
    __builtin_memcpy(y, spot.y.at, sizeof y);
    __builtin_memcpy(alive, &spot.alive, sizeof alive);
    std::int64_t from[n * n][lanes], to[n * n][lanes];
    Vector<T> weight[n * n], sum_x = {}, sum_y = {};
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < n; ++i) {
            weight[j * n + i] = spot.y.weight[j] * spot.x.weight[i];
            for (int l = 0; l < lanes; ++l) {
                from[j * n + i][l] = y[j][l] * a.input.y + x[i][l] * a.input.x;
                to[j * n + i][l] = y[j][l] * part.to.y + x[i][l] * part.to.x;
            }
        }
    for (std::int64_t c = 0; c < part.channels; ++c) {
        const Vector<T> all_g = load_lanes<Element, T>(grad_out + c * a.out.channel, a.out.x, count);
        const Vector<T> g = spot.alive ? all_g : Vector<T>{};
        if constexpr (need_homography) {
            const Element* input = part.input + c * a.input.channel;
            for (int j = 0; j < n; ++j)
                for (int i = 0; i < n; ++i) {
                    T values[lanes];
                    for (int l = 0; l < lanes; ++l) values[l] = widen(input[from[j * n + i][l]]);
                    const Vector<T> product = g * load(values);
                    sum_x += spot.y.weight[j] * spot.x.slope[i] * product;
                    sum_y += spot.y.slope[j] * spot.x.weight[i] * product;
                }
        }
        if constexpr (need_input) {
            T* grad_input = part.grad_input + c * part.to.channel;
            T parts[n * n][lanes];
            for (int t = 0; t < n * n; ++t) store(parts[t], weight[t] * g);
            for (int l = 0; l < count; ++l)
                for (int t = 0; alive[l] && t < n * n; ++t) grad_input[to[t][l]] += parts[t][l];
        }
    }
    store(slopes.x, sum_x), store(slopes.y, sum_y);
}

// The gradient of a row of pixels for the first and last column of the homography; y is the same in a row.
struct RowGradient {
    double by_x[3] = {}, by_one[3] = {};

    template <typename T, int n>
    VSAD_HD void add(const Slopes<T>& slopes, const Spot<T, n>& spot, std::int64_t x0, int count) {
        const Vector<T> dX = load(slopes.x) / spot.Z, dY = load(slopes.y) / spot.Z;
        const Vector<T> dZ = -(dX * spot.sx + dY * spot.sy);
        T column[3][kLanes<T>];
        Lane<T> alive[kLanes<T>];
        __builtin_memcpy(alive, &spot.alive, sizeof alive);
        store(column[0], dX), store(column[1], dY), store(column[2], dZ);
        for (int l = 0; l < count; ++l)
            for (int i = 0; alive[l] && i < 3; ++i) {
                by_x[i] += double(column[i][l]) * double(x0 + l);
                by_one[i] += double(column[i][l]);
            }
    }
    void flush(double* homography, std::int64_t y) const {
        for (int i = 0; i < 3; ++i) {
            homography[3 * i + 0] += by_x[i];
            homography[3 * i + 1] += by_one[i] * double(y);
            homography[3 * i + 2] += by_one[i];
        }
    }
};

template <typename Element, int n, bool need_input, bool need_homography>
void backward_part(const WarpGradients& gradients, std::int64_t item) {
    using T = typename Compute<Element>::type;
    const Part<Element, T> part(gradients, item);
    const WarpArguments& a = part.a;
    const Locator<T> locator(a, item / gradients.groups, n - 1);
    const bool rows = a.input.channel == 1 && a.out.channel == 1 && (!need_input || part.to.channel == 1) &&
                      part.channels * sizeof(T) >= 16;
    for (std::int64_t y = 0; y < a.H; ++y) {
        RowGradient row;
        for (std::int64_t x = 0; x < a.W; x += kLanes<T>) {
            const Spot<T, n> spot = locator.template locate<n>(T(x), T(y));
            if (spot.nowhere) continue;
            const int count = int(lesser<std::int64_t>(kLanes<T>, a.W - x));
            const Element* grad_out = part.grad_out + y * a.out.y + x * a.out.x;
            Slopes<T> slopes = {};
            if (rows)
                spread_rows<need_input, need_homography>(part, grad_out, count, spot, slopes);
            else
                spread_lanes<need_input, need_homography>(part, grad_out, count, spot, slopes);
            if constexpr (need_homography) row.add(slopes, spot, x, count);
        }
        if constexpr (need_homography) row.flush(part.homography, y);
    }
}

template <typename Element, int n>
void backward_item(const void* arguments, std::int64_t item, char*) {
    const WarpGradients& g = *static_cast<const WarpGradients*>(arguments);
    if (g.input.data && g.homography && n > 1)  // nearest is a staircase: nothing changes with the homography
        backward_part<Element, n, true, (n > 1)>(g, item);
    else if (g.input.data)
        backward_part<Element, n, true, false>(g, item);
    else if (n > 1)
        backward_part<Element, n, false, (n > 1)>(g, item);
}

template <typename Element>
Work backward_work(const WarpGradients& g) {
    Work work{g.forward.B * g.groups, g.forward.threads, 0, &backward_item<Element, 1>};
    if (g.forward.mode == Mode::bilinear) work.run = &backward_item<Element, 2>;
    if (g.forward.mode == Mode::bicubic) work.run = &backward_item<Element, 4>;
    return work;
}

}  // namespace

Work homography_warp_backward(const WarpGradients& g) {
    switch (g.forward.dtype) {
        case Scalar::float64:
            return backward_work<double>(g);
        case Scalar::bfloat16:
            return backward_work<bfloat16>(g);
        case Scalar::float16:
            return backward_work<float16>(g);
        default:
            return backward_work<float>(g);
    }
}

}  // namespace VSAD_ISA
}  // namespace vsad
