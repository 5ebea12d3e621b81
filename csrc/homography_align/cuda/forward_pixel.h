// The forward of one target pixel with ordinary instructions: any dtype and any number of channels. The fallback of the
// tensor core kernel too.
#pragma once
#include "homography_align/cuda/window.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

// Online softmax over rows of cells.
struct Softmax {
    float peak = kMinusInfinity, total = 0;

    __device__ __forceinline__ float log_sum() const { return total == 0 ? 0.f : kLn2 * log2f(total); }
    // Leaves the peak and log_sum of the pixel whose index is `at`, where somebody wants them.
    __device__ __forceinline__ void store(const AlignArguments& a, std::int64_t at) const {
        if (!a.peak) return;
        static_cast<float*>(a.peak)[at] = peak;
        static_cast<float*>(a.log_sum)[at] = log_sum();
    }
};

// The logits of a row of cells, from the dot products with the row of taps below; -inf marks a cell that is not valid.
// `mixed` is the row of taps above, mixed along x, and becomes that of the row below. Returns the greater of `highest`
// and all logits.
template <int R>
__device__ __forceinline__ float find_logits(float (&logits)[R], float (&mixed)[R], const float (&below)[R + 1],
                                             const Window<R>& w, int row, float scale, const float* bias,
                                             float highest) {
#pragma unroll
    for (int i = 0; i < R; ++i) {
        const float next = mix_alike(w.fx, below[i], below[i + 1]);
        const float logit = logit_of(scale, mix_alike(w.fy, mixed[i], next), bias, row * R + i);
        logits[i] = w.cells.hold(row, i) ? logit : kMinusInfinity;
        highest = logits[i] > highest ? logits[i] : highest;
        mixed[i] = next;
    }
    return highest;
}

// Goes through one slot's window: adds its cells to the softmax and its weighted values to `out`.
template <typename Element, int R, int kLanes>
__device__ __forceinline__ void attend_window(Softmax& softmax, Sums<Element, kLanes>& out,
                                              const Row<Element, kLanes>& query, const Taps<Element, R>& keys,
                                              const Taps<Element, R>& values, const Window<R>& w, float scale,
                                              const float* bias) {
    float t[R + 1], mixed[R], above[R + 1] = {};  // above: what a row of taps receives from the cells above it
    dot_row(t, query, keys, w, 0);
#pragma unroll
    for (int i = 0; i < R; ++i) mixed[i] = mix_alike(w.fx, t[i], t[i + 1]);
#pragma unroll 1
    for (int row = 0; row <= R; ++row) {
        float below[R + 1] = {};
        if (row < R) {
            dot_row(t, query, keys, w, row + 1);
            float cells[R];
            const float highest = find_logits<R>(cells, mixed, t, w, row, scale, bias, softmax.peak);
            if (highest > softmax.peak) {
                const float keep = exp_of(softmax.peak - highest);
                softmax.total *= keep;
#pragma unroll
                for (int i = 0; i <= R; ++i) above[i] *= keep;
                out.multiply(keep);
                softmax.peak = highest;
            }
            // While nothing is valid the shift is 0, since exp(-inf - 0) = 0.
            const float shift = softmax.peak == kMinusInfinity ? 0.f : softmax.peak;
#pragma unroll
            for (int i = 0; i < R; ++i) softmax.total += cells[i] = exp_of(cells[i] - shift);
            spread<R>(below, cells, w.fx);
        }
        float beta[R + 1];
        mix_rows(beta, w.fy, below, above);
        add_row(out, beta, values, w, row);
#pragma unroll
        for (int i = 0; i <= R; ++i) above[i] = below[i];
    }
}

// One head, and the value channels of one slice from pack `begin` on, at target pixel (x, y). All lanes of a warp call
// this together, each group of kLanes with a pixel of its own.
template <typename Element, int R, int kLanes>
__device__ __forceinline__ void forward_pixel(const PackedAlignArguments& a, int b, int v, int head, int begin, int x,
                                              int y) {
    const bool exists = x < a.W && y < a.H;
    const int key_channel = head * a.key_packs * kPack<Element>, value_channel = head * a.value_packs * kPack<Element>;
    const Row<Element, kLanes> query(pixel_at<Element>(a.query, b, v, x, y, key_channel), exists ? a.key_packs : 0);
    Sums<Element, kLanes> out(begin, a.value_packs);
    Softmax softmax;
    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, v, slot);
        if (source < 0) continue;
        const Window<R> w(a, homography_of(a, b, v, slot), x, y, exists);
        if (!__any_sync(kWarp, w.has_valid_cell)) continue;
        const Taps<Element, R> keys(a.key, b, source, key_channel, a, w);
        const Taps<Element, R> values(a.value, b, source, value_channel, a, w);
        attend_window(softmax, out, query, keys, values, w, a.logit_scale, bias_of(a, head, slot));
    }
    if (!exists) return;
    const bool nowhere = softmax.total == 0;
    if (begin == 0 && query.lane() == 0) softmax.store(a, pixel_index(a, b, v, head, x, y));
    out.store(const_cast<Element*>(pixel_at<Element>(a.out, b, v, x, y, value_channel)),
              nowhere ? 0.f : 1 / softmax.total);
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
