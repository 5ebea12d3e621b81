// What the two ways to the gradients share: the weights of a tile's windows, found from lse, and what the pixels of a
// tile give to a tap.
#pragma once
#include "homography_align/cuda/window.h"

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

    // A lane's columns of a row of taps: lane, lane + kLanes, ...
    static constexpr int kOwn = (R + kLanes) / kLanes;
    static __device__ __forceinline__ void own_columns(float (&own)[kOwn], const float (&row)[R + 1]) {
        const int lane = threadIdx.x % kLanes;
#pragma unroll
        for (int i = 0; i <= R; ++i)
            if (i % kLanes == 0 || i % kLanes == lane) own[i / kLanes] = row[i];
    }
    __device__ __forceinline__ void put_row(int a, const float (&own_gamma)[kOwn], const float (&own_beta)[kOwn]) {
        const int pixel = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const int column = i * kLanes + lane;
            if (column > R) break;
            gamma[pixel][a * (R + 1) + column] = own_gamma[i];
            beta[pixel][a * (R + 1) + column] = own_beta[i];
        }
    }
    __device__ __forceinline__ void put_corner(int pixel, const Window<R>& w, bool use) {
        if (threadIdx.x % kLanes) return;
        left[pixel] = use ? w.left : kElsewhere;
        top[pixel] = use ? w.top : kElsewhere;
    }
};

// A tile's rows of query and of grad_out in shared memory, as floats, since they are read many times: the packs of one
// slice, first the first four channels of each, then, of half types, the others. Strides let the lanes of two pixels
// read 32 banks.
template <typename Element>
struct Staged {
    static constexpr int kPacks = kSlicePacks<Element, kLanes>, kQuads = kPack<Element> / 4;
    static constexpr int kStride = kPacks * kQuads % 8 == 4 ? kPacks * kQuads : kPacks * kQuads + 4;
    float4 query[kPixels][kStride], grad_out[kPixels][kStride];

    static __device__ __forceinline__ void put(float4* row, int pack, const float (&from)[kPack<Element>]) {
#pragma unroll
        for (int i = 0; i < kQuads; ++i)
            row[i * kPacks + pack] = make_float4(from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]);
    }
    static __device__ __forceinline__ void get(float (&to)[kPack<Element>], const float4* row, int pack) {
#pragma unroll
        for (int i = 0; i < kQuads; ++i) {
            const float4 quad = row[i * kPacks + pack];
            to[4 * i] = quad.x;
            to[4 * i + 1] = quad.y;
            to[4 * i + 2] = quad.z;
            to[4 * i + 3] = quad.w;
        }
    }
};

// The first channel of a head at a pixel.
template <typename Element>
__device__ __forceinline__ const Element* pixel_at(const AlignImage& image, int b, int v, int x, int y, int channel) {
    return reinterpret_cast<const Element*>(image.data) + b * image.batch + v * image.view + y * image.y + x * image.x +
           channel;
}

// One pixel's row: what is staged, and the rest of it where it lies. Addresses are found when they are needed:
// registers are scarce.
template <typename Element>
struct StagedRow {
    const AlignImage& image;
    int b, v, x, y, channel, packs, begin;

    __device__ __forceinline__ const Element* from(int pack) const {
        return pixel_at<Element>(image, b, v, x, y, channel) + pack * kPack<Element>;
    }
    // The pixel's lanes stage it.
    __device__ __forceinline__ void stage(float4* to) const {
#pragma unroll
        for (int j = 0; j < kHeld<Element, kLanes>; ++j) {
            const int at = threadIdx.x % kLanes + j * kLanes;
            if (begin + at >= packs) break;
            float values[kPack<Element>];
            unpack<Element>(load_packed(from(begin + at)), values);
            Staged<Element>::put(to, at, values);
        }
    }
    // A lane asks for its own packs only.
    __device__ __forceinline__ void get(float (&to)[kPack<Element>], const float4* staged, int pack) const {
        const unsigned at = pack - begin;
        if (at < Staged<Element>::kPacks)
            Staged<Element>::get(to, staged, at);
        else
            unpack<Element>(load_packed(from(pack)), to);
    }
};

template <typename Element, int R>
__device__ __forceinline__ void dot_row(float (&t)[R + 1], const StagedRow<Element>& row, const float4* staged,
                                        const Taps<Element, R>& taps, const Window<R>& w, int a) {
#pragma unroll
    for (int b = 0; b <= R; ++b) t[b] = 0;
    if (w.has_row(a)) {
        const Element* line = taps.line(a);
#pragma unroll 1
        for (int pack = threadIdx.x % kLanes; pack < row.packs; pack += kLanes) {
            float own[kPack<Element>];
            row.get(own, staged, pack);
#pragma unroll
            for (int b = 0; b <= R; ++b)
                if (w.has_column(b))
                    t[b] = dot<Element>(own, load_packed(line + pack * kPack<Element> + taps.offset(b)), t[b]);
        }
    }
    sum_over_lanes<kLanes>(t);
}

// A target pixel of one head, as the backward sees it.
template <typename Element>
struct Target {
    int b, v, head, x, y;
    bool exists;
    StagedRow<Element> query, grad_out;
    float lse = 0, grad_lse = 0;  // to the base 2; where no cell is valid, lse is 0, and so will be the weights

    __device__ __forceinline__ Target(const AlignGradients& g, Staged<Element>& staged, int begin, int b, int v,
                                      int head, int x, int y)
        : b(b),
          v(v),
          head(head),
          x(x),
          y(y),
          exists(x < g.forward.W && y < g.forward.H),
          query{g.forward.query,
                b,
                v,
                x,
                y,
                head * g.forward.key_packs * kPack<Element>,
                exists ? g.forward.key_packs : 0,
                begin},
          grad_out{
              g.grad_out, b, v, x, y, head * g.forward.value_packs * kPack<Element>, exists ? g.forward.value_packs : 0,
              begin} {
        query.stage(staged.query[threadIdx.x / kLanes]);
        grad_out.stage(staged.grad_out[threadIdx.x / kLanes]);
        if (!exists) return;
        const std::int64_t at = number_at(g.forward, b, v, head, x, y);
        lse = g.forward.lse[at] * kLog2E;
        if (lse == -__builtin_inff()) lse = 0;
        if (g.grad_lse) grad_lse = g.grad_lse[at];
    }
};

// Between four taps, two of a row and the two below them.
template <int R>
__device__ __forceinline__ float bilinear(const Window<R>& w, float a, float b, float c, float d) {
    return mix(w.fy, mix(w.fx, a, b), mix(w.fx, c, d));
}

// Goes through the rows of a window and leaves the weights of its taps; calls cell(a, i, alpha, value, logit's
// gradient, d logit and d value by x, by y) for every valid cell. `inner` is <dout, out>.
template <typename Element, int R, typename Cell>
__device__ __forceinline__ void differentiate(const AlignGradients& g, const Target<Element>& target, int slot,
                                              const Taps<Element, R>& keys, const Taps<Element, R>& values,
                                              const Window<R>& w, float inner, const Staged<Element>& staged,
                                              Weights<R>& weights, const Cell& cell) {
    constexpr int kOwn = Weights<R>::kOwn;
    const AlignArguments& a = g.forward;
    const float4 *query = staged.query[threadIdx.x / kLanes], *grad_out = staged.grad_out[threadIdx.x / kLanes];
    const float* bias = a.bias ? a.bias + bias_at(a, target.head, slot) : nullptr;
    float upper_t[R + 1], upper_g[R + 1];  // of the row of taps above the cells: <query, key> and <grad_out, value>
    dot_row(upper_t, target.query, query, keys, w, 0);
    dot_row(upper_g, target.grad_out, grad_out, values, w, 0);
    float above_gamma[kOwn] = {}, above_beta[kOwn] = {};  // what a row of taps gets from the cells above it
#pragma unroll 1
    for (int row = 0; row < R; ++row) {
        float t[R + 1], grad[R + 1], alphas[R], grads[R];
        dot_row(t, target.query, query, keys, w, row + 1);
        dot_row(grad, target.grad_out, grad_out, values, w, row + 1);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const float logit = a.scale * kLog2E * bilinear(w, upper_t[i], upper_t[i + 1], t[i], t[i + 1]) +
                                (bias ? kLog2E * bias[row * R + i] : 0.f);
            const float value = bilinear(w, upper_g[i], upper_g[i + 1], grad[i], grad[i + 1]);
            const bool valid = w.cells.hold(row, i);
            const float alpha = valid ? exp2f(logit - target.lse) : 0.f;
            // A cell without rivals has inner = value: a logit that changes nothing gets no gradient from rounding.
            const float d = valid ? alpha * (value - (alpha == 1 ? value : inner) + target.grad_lse) : 0.f;
            alphas[i] = alpha;
            grads[i] = a.scale * d;
            if (valid)
                cell(row, i, alpha, value, d,
                     grads[i] * mix(w.fy, upper_t[i + 1] - upper_t[i], t[i + 1] - t[i]) +
                         alpha * mix(w.fy, upper_g[i + 1] - upper_g[i], grad[i + 1] - grad[i]),
                     grads[i] * (mix(w.fx, t[i], t[i + 1]) - mix(w.fx, upper_t[i], upper_t[i + 1])) +
                         alpha * (mix(w.fx, grad[i], grad[i + 1]) - mix(w.fx, upper_g[i], upper_g[i + 1])));
        }
        float all[R + 1], gamma[kOwn] = {}, beta[kOwn] = {};
        spread<R>(all, grads, w.fx);
        Weights<R>::own_columns(gamma, all);
        spread<R>(all, alphas, w.fx);
        Weights<R>::own_columns(beta, all);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const float below_gamma = w.fy * gamma[i], below_beta = w.fy * beta[i];
            gamma[i] = (1 - w.fy) * gamma[i] + above_gamma[i];
            beta[i] = (1 - w.fy) * beta[i] + above_beta[i];
            above_gamma[i] = below_gamma;
            above_beta[i] = below_beta;
        }
        weights.put_row(row, gamma, beta);
#pragma unroll
        for (int i = 0; i <= R; ++i) {
            upper_t[i] = t[i];
            upper_g[i] = grad[i];
        }
    }
    weights.put_row(R, above_gamma, above_beta);
}

// What key and value get at one source pixel from the pixels of a target tile, those in a fixed order. The lanes of a
// source pixel share its packs.
template <typename Element, int R>
__device__ __forceinline__ void collect(Sums<Element, kLanes>& key, Sums<Element, kLanes>& value,
                                        const Weights<R>& weights, const Staged<Element>& staged, int x, int y) {
#pragma unroll 1
    for (int i = 0; i < kPixels; ++i) {
        const unsigned column = x - weights.left[i], row = y - weights.top[i];
        if (column > R || row > R) continue;
        const int tap = row * (R + 1) + column;
        const float gamma = weights.gamma[i][tap], beta = weights.beta[i][tap];
        key.for_each([&](int pack, float (&sum)[kPack<Element>]) {
            float own[kPack<Element>];
            Staged<Element>::get(own, staged.query[i], pack - key.begin);
#pragma unroll
            for (int k = 0; k < kPack<Element>; ++k) sum[k] += gamma * own[k];
        });
        value.for_each([&](int pack, float (&sum)[kPack<Element>]) {
            float own[kPack<Element>];
            Staged<Element>::get(own, staged.grad_out[i], pack - value.begin);
#pragma unroll
            for (int k = 0; k < kPack<Element>; ++k) sum[k] += beta * own[k];
        });
    }
}

// The first channel of a head in a dense gradient.
__device__ __forceinline__ std::int64_t dense_at(std::int64_t view, std::int64_t height, std::int64_t width, int y,
                                                 int x, int head, int heads, int channels) {
    return (((view * height + y) * width + x) * heads + head) * channels;
}

}  // namespace
}  // namespace cuda
}  // namespace vsad
