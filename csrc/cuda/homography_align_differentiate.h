// What the two ways to the gradients share: the weights of a tile's windows, found from lse, and what the pixels of a
// tile give to a tap.
#pragma once
#include "cuda/homography_align_window.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kLanes = 4;  // of a pixel; a tile is 8 x 8
using BackwardTile = Tile<kLanes>;
constexpr int kPixels = BackwardTile::kPixels;
constexpr int kElsewhere = -(1 << 30);  // a window's corner that no tap comes near

// The weights of the taps of all windows of a tile in shared memory: gamma multiplies query, beta grad_out. Rows are
// padded so that the lanes of a warp write to 32 banks.
template <int R>
struct Weights {
    static constexpr int kTaps = (R + 1) * (R + 1), kStride = kTaps % 8 == 4 ? kTaps : kTaps + 4;
    float gamma[kPixels][kStride], beta[kPixels][kStride];
    int left[kPixels], top[kPixels];

    // The pixel's lanes share the row's stores.
    __device__ __forceinline__ void put_row(int pixel, int a, const float (&row_gamma)[R + 1],
                                            const float (&row_beta)[R + 1]) {
        const int lane = threadIdx.x % kLanes;
#pragma unroll
        for (int i = 0; i <= R; ++i)
            if (i % kLanes == lane) {
                gamma[pixel][a * (R + 1) + i] = row_gamma[i];
                beta[pixel][a * (R + 1) + i] = row_beta[i];
            }
    }
    __device__ __forceinline__ void put_corner(int pixel, const Window<R>& w, bool use) {
        if (threadIdx.x % kLanes) return;
        left[pixel] = use ? w.left : kElsewhere;
        top[pixel] = use ? w.top : kElsewhere;
    }
};

// A target pixel of one head, as the backward sees it.
template <typename Element>
struct Target {
    int b, v, head, x, y;
    bool exists;
    Row<Element, kLanes> query, grad_out;
    float lse = 0, grad_lse = 0;  // to the base 2; where no cell is valid, lse is 0, and so will be the weights

    __device__ __forceinline__ Target(const AlignGradients& g, int b, int v, int head, int x, int y)
        : b(b),
          v(v),
          head(head),
          x(x),
          y(y),
          exists(x < g.forward.W && y < g.forward.H),
          query(g.forward.query, b, v, x, y, head * g.forward.key_packs * kPack<Element>, g.forward.key_packs, exists),
          grad_out(g.grad_out, b, v, x, y, head * g.forward.value_packs * kPack<Element>, g.forward.value_packs,
                   exists) {
        if (!exists) return;
        const std::int64_t at = number_at(g.forward, b, v, head, x, y);
        lse = g.forward.lse[at] * kLog2E;
        if (lse == -__builtin_inff()) lse = 0;
        if (g.grad_lse) grad_lse = g.grad_lse[at];
    }
};

// Where a window stands between two rows of taps: what lies between neighbours of the row above, for t = <q, k> and for
// g = <dout, v>, and their differences.
template <int R>
struct Between {
    float t[R], g[R], slope_t[R], slope_g[R];

    __device__ __forceinline__ void take(const float (&row_t)[R + 1], const float (&row_g)[R + 1], float fx) {
#pragma unroll
        for (int i = 0; i < R; ++i) {
            t[i] = mix(fx, row_t[i], row_t[i + 1]);
            g[i] = mix(fx, row_g[i], row_g[i + 1]);
            slope_t[i] = row_t[i + 1] - row_t[i];
            slope_g[i] = row_g[i + 1] - row_g[i];
        }
    }
};

// Goes through the rows of a window. Calls cell(a, i, alpha, value, logit's gradient, d logit and d value by fx, by fy)
// for every valid cell, with inner = <dout, out>, and taps(a, gamma, beta) for every row of taps.
template <typename Element, int R, typename Cell, typename TapRow>
__device__ __forceinline__ void differentiate(const AlignGradients& g, const Target<Element>& target, int slot,
                                              const Taps<Element, R>& keys, const Taps<Element, R>& values,
                                              const Window<R>& w, float inner, const Cell& cell, const TapRow& taps) {
    const AlignArguments& a = g.forward;
    const float* bias = a.bias ? a.bias + bias_at(a, target.head, slot) : nullptr;
    float t[R + 1], grad[R + 1];
    Between<R> upper, lower;
    dot_row(t, target.query, keys, w, 0);
    dot_row(grad, target.grad_out, values, w, 0);
    upper.take(t, grad, w.fx);
    float above_gamma[R + 1] = {}, above_beta[R + 1] = {};
#pragma unroll 1
    for (int row = 0; row <= R; ++row) {
        float below_gamma[R + 1] = {}, below_beta[R + 1] = {};
        if (row < R) {
            dot_row(t, target.query, keys, w, row + 1);
            dot_row(grad, target.grad_out, values, w, row + 1);
            lower.take(t, grad, w.fx);
            float alphas[R], grads[R];
#pragma unroll
            for (int i = 0; i < R; ++i) {
                const float logit =
                    a.scale * kLog2E * mix(w.fy, upper.t[i], lower.t[i]) + (bias ? kLog2E * bias[row * R + i] : 0.f);
                const float value = mix(w.fy, upper.g[i], lower.g[i]);
                const bool valid = w.cells.hold(row, i);
                const float alpha = valid ? exp2f(logit - target.lse) : 0.f;
                // A cell without rivals has inner = value: a logit that changes nothing gets no gradient from rounding.
                const float d = valid ? alpha * (value - (alpha == 1 ? value : inner) + target.grad_lse) : 0.f;
                alphas[i] = alpha;
                grads[i] = a.scale * d;
                if (valid)
                    cell(row, i, alpha, value, d,
                         grads[i] * mix(w.fy, upper.slope_t[i], lower.slope_t[i]) +
                             alpha * mix(w.fy, upper.slope_g[i], lower.slope_g[i]),
                         grads[i] * (lower.t[i] - upper.t[i]) + alpha * (lower.g[i] - upper.g[i]));
            }
            spread<R>(below_gamma, grads, w.fx);
            spread<R>(below_beta, alphas, w.fx);
            upper = lower;
        }
        float gamma[R + 1], beta[R + 1];
        mix_rows(gamma, w.fy, below_gamma, above_gamma);
        mix_rows(beta, w.fy, below_beta, above_beta);
        taps(row, gamma, beta);
#pragma unroll
        for (int i = 0; i <= R; ++i) {
            above_gamma[i] = below_gamma[i];
            above_beta[i] = below_beta[i];
        }
    }
}

// What key and value get at one source pixel from the pixels of a target tile, those in a fixed order. The lanes of a
// source pixel share its packs.
template <typename Element, int R>
__device__ __forceinline__ void collect(Sums<Element, kLanes>& key, Sums<Element, kLanes>& value,
                                        const Weights<R>& weights, const AlignGradients& g, const Element* query,
                                        const Element* grad_out, int x, int y) {
#pragma unroll 1
    for (int i = 0; i < kPixels; ++i) {
        const unsigned column = x - weights.left[i], row = y - weights.top[i];
        if (column > R || row > R) continue;
        const int tap = row * (R + 1) + column;
        const float gamma = weights.gamma[i][tap], beta = weights.beta[i][tap];
        const int at_x = BackwardTile::x(i), at_y = BackwardTile::y(i);
        const Element* from = query + at_y * g.forward.query.y + at_x * g.forward.query.x;
        key.for_each([&](int pack, float (&sum)[kPack<Element>]) {
            add_scaled<Element>(sum, gamma, load_packed(from + pack * kPack<Element>));
        });
        from = grad_out + at_y * g.grad_out.y + at_x * g.grad_out.x;
        value.for_each([&](int pack, float (&sum)[kPack<Element>]) {
            add_scaled<Element>(sum, beta, load_packed(from + pack * kPack<Element>));
        });
    }
}

// The first channel of a head at a tile's first pixel.
template <typename Element>
__device__ __forceinline__ const Element* tile_at(const AlignImage& image, int b, int v, int x, int y, int channel) {
    return reinterpret_cast<const Element*>(image.data) + b * image.batch + v * image.view + y * image.y + x * image.x +
           channel;
}

// The first channel of a head in a dense gradient.
__device__ __forceinline__ std::int64_t dense_at(std::int64_t view, std::int64_t height, std::int64_t width, int y,
                                                 int x, int head, int heads, int channels) {
    return (((view * height + y) * width + x) * heads + head) * channels;
}

}  // namespace
}  // namespace cuda
}  // namespace vsad
