// The gradients of one window: of its logits, of the projected point, and the weights of its taps.
#pragma once
#include "homography_align/cuda/backward_tile.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

// A target pixel of one head, its rows staged in shared memory.
template <typename Element>
struct Target {
    int b, v, head, x, y;
    bool exists, wide;
    StagedRow<Element> query, grad_out;
    float peak = 0, log_sum = 0, grad_log_sum = 0;  // the peak is 0 where no cell is valid: every logit is -inf there

    __device__ __forceinline__ Target(const AlignBackwardArguments& g, Staged<Element>& staged, int begin, int b, int v,
                                      int head, int x, int y)
        : b(b),
          v(v),
          head(head),
          x(x),
          y(y),
          exists(x < g.forward.W && y < g.forward.H),
          wide(g.forward.key_packs > kSlicePacks<Element, kLanes> ||
               g.forward.value_packs > kSlicePacks<Element, kLanes>),
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
        if (exists && g.grad_log_sum)
            grad_log_sum = static_cast<const float*>(g.grad_log_sum)[pixel_index(g.forward, b, v, head, x, y)];
    }
    __device__ __forceinline__ void load_softmax(const AlignArguments& a) {
        if (!exists) return;
        const std::int64_t at = pixel_index(a, b, v, head, x, y);
        peak = static_cast<const float*>(a.peak)[at];
        log_sum = static_cast<const float*>(a.log_sum)[at];
        if (peak == kMinusInfinity) peak = 0;
    }
    __device__ __forceinline__ float weight_of(float logit) const { return exp_of((logit - peak) - log_sum); }
};

// The dot products of a pixel with one row of taps: <query, key> and <grad_out, value>.
template <int R>
struct TapRow {
    float key[R + 1], value[R + 1];

    template <typename Element>
    __device__ __forceinline__ void load(const Target<Element>& target, const Staged<Element>& staged,
                                         const Taps<Element, R>& keys, const Taps<Element, R>& values,
                                         const Window<R>& w, int row) {
        dot_row(key, target.query, staged.query[threadIdx.x / kLanes], keys, w, row, target.wide);
        dot_row(value, target.grad_out, staged.grad_out[threadIdx.x / kLanes], values, w, row, false);
    }
};

// Bilinear interpolation between the taps a, b of a row and c, d of the row below; of the forward's bits.
template <int R>
__device__ __forceinline__ float bilinear(const Window<R>& w, float a, float b, float c, float d) {
    return mix_alike(w.fy, mix_alike(w.fx, a, b), mix_alike(w.fx, c, d));
}

// Calls visit(row, i, logit, value, upper, lower) for every cell and then finish(row) for every row of cells. value is
// the cell's <grad_out, value>; upper and lower are the rows of taps it lies between. -inf is the logit, and 0 the
// value, of a cell that is not valid.
template <typename Element, int R, typename Visit, typename Finish>
__device__ __forceinline__ void for_each_cell(const PackedAlignArguments& a, const Target<Element>& target, int slot,
                                              const Taps<Element, R>& keys, const Taps<Element, R>& values,
                                              const Window<R>& w, const Staged<Element>& staged, const Visit& visit,
                                              const Finish& finish) {
    const float* bias = bias_of(a, target.head, slot);
    TapRow<R> upper;
    upper.load(target, staged, keys, values, w, 0);
#pragma unroll 1
    for (int row = 0; row < R; ++row) {
        TapRow<R> lower;
        lower.load(target, staged, keys, values, w, row + 1);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const float t = bilinear(w, upper.key[i], upper.key[i + 1], lower.key[i], lower.key[i + 1]);
            const float logit = logit_of(a.logit_scale, t, bias, row * R + i);
            const float value = bilinear(w, upper.value[i], upper.value[i + 1], lower.value[i], lower.value[i + 1]);
            const bool valid = w.cells.hold(row, i);
            visit(row, i, valid ? logit : kMinusInfinity, valid ? value : 0.f, upper, lower);
        }
        finish(row);
        upper = lower;
    }
}

// The derivatives of bilinear interpolation at cell i of a row, with respect to x and to y.
template <int R>
__device__ __forceinline__ float slope_x(const Window<R>& w, const float (&upper)[R + 1], const float (&lower)[R + 1],
                                         int i) {
    return mix(w.fy, upper[i + 1] - upper[i], lower[i + 1] - lower[i]);
}
template <int R>
__device__ __forceinline__ float slope_y(const Window<R>& w, const float (&upper)[R + 1], const float (&lower)[R + 1],
                                         int i) {
    return mix(w.fx, lower[i], lower[i + 1]) - mix(w.fx, upper[i], upper[i + 1]);
}

// Gathers the weights of taps from rows of cells. Each lane keeps what its columns of the next row of taps receive from
// the cells above it.
template <int R>
struct WeightRows {
    static constexpr int kOwn = Weights<R>::kOwn;
    float above_gamma[kOwn] = {}, above_beta[kOwn] = {};

    __device__ __forceinline__ void add_cells(Weights<R>& weights, const Window<R>& w, int row, const float (&grads)[R],
                                              const float (&alphas)[R]) {
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
    }
    __device__ __forceinline__ void finish(Weights<R>& weights) const { weights.put_row(R, above_gamma, above_beta); }
};

// Leaves the weights of the window's taps in `weights`, and calls cell(row, i, d, gx, gy) for every valid cell: d is
// the gradient of its logit, (gx, gy) its part of the projected point's. `inner` is <grad_out, out>.
template <typename Element, int R, typename Cell>
__device__ __forceinline__ void differentiate(const PackedAlignArguments& a, const Target<Element>& target, int slot,
                                              const Taps<Element, R>& keys, const Taps<Element, R>& values,
                                              const Window<R>& w, float inner, const Staged<Element>& staged,
                                              Weights<R>& weights, const Cell& cell) {
    WeightRows<R> rows;
    float alphas[R], grads[R];
    for_each_cell(
        a, target, slot, keys, values, w, staged,
        [&](int row, int i, float logit, float value, const TapRow<R>& upper, const TapRow<R>& lower) {
            const bool valid = w.cells.hold(row, i);
            const float alpha = valid ? target.weight_of(logit) : 0.f;
            // The only cell with weight has value == inner: rounding must not give its logit, which changes nothing, a
            // gradient.
            const float d = valid ? alpha * (value - (alpha == 1 ? value : inner) + target.grad_log_sum) : 0.f;
            alphas[i] = alpha;
            grads[i] = a.logit_scale * d;
            if (valid)
                cell(row, i, d,
                     grads[i] * slope_x(w, upper.key, lower.key, i) + alpha * slope_x(w, upper.value, lower.value, i),
                     grads[i] * slope_y(w, upper.key, lower.key, i) + alpha * slope_y(w, upper.value, lower.value, i));
        },
        [&](int row) { rows.add_cells(weights, w, row, grads, alphas); });
    rows.finish(weights);
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
