// The softmax of the tensor core forward: from a pixel's scores in its warp's box to the weights of its taps.
#pragma once
#include "cuda/ptx.h"
#include "homography_align/cuda/forward_pixel.h"
#include "homography_align/cuda/outlook.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

// A row of the window's scores, mixed along x; taps that take no part count as zero. `inside`: all of them do.
template <int R, bool inside>
__device__ __forceinline__ void mix_scores(float (&to)[R], const float* scores, const Place& place, int width,
                                           int row) {
    float t[R + 1];
#pragma unroll
    for (int i = 0; i <= R; ++i) t[i] = inside || place.has_tap(row, i) ? scores[row * width + i] : 0;
#pragma unroll
    for (int i = 0; i < R; ++i) to[i] = mix(place.fx, t[i], t[i + 1]);
}

// The logits of a window's cells; -inf marks a cell that is not valid. Returns the greater of `highest` and all logits.
template <int R, bool inside>
__device__ __forceinline__ float find_logits(float (&cells)[R][R], const float* scores, const Place& place, int width,
                                             float scale, const float* bias, float highest) {
    float mixed[R];
    mix_scores<R, inside>(mixed, scores, place, width, 0);
#pragma unroll
    for (int row = 0; row < R; ++row) {
        float next[R];
        mix_scores<R, inside>(next, scores, place, width, row + 1);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const float logit = logit_of(scale, mix(place.fy, mixed[i], next[i]), bias, row * R + i);
            cells[row][i] = inside || place.holds(row, i) ? logit : kMinusInfinity;
            highest = cells[row][i] > highest ? cells[row][i] : highest;
            mixed[i] = next[i];
        }
    }
    return highest;
}

// Adds cells to a softmax; logits become weights. Returns the factor by which what was summed before shrinks.
template <int R>
__device__ __forceinline__ float add_cells(Softmax& softmax, float (&cells)[R][R], float highest) {
    const float shift = highest == kMinusInfinity ? 0.f : highest;  // nothing valid yet: exp(-inf - 0) = 0
    const float keep = exp2_flushed(kLog2E * (softmax.peak - shift));
    float part = 0;
#pragma unroll
    for (int row = 0; row < R; ++row)
#pragma unroll
        for (int i = 0; i < R; ++i) part += cells[row][i] = exp2_flushed(kLog2E * (cells[row][i] - shift));
    softmax.peak = highest;
    softmax.total = softmax.total * keep + part;
    return keep;
}

// Leaves the weights of a window's taps in its row of the box, rounded to the dtype.
template <typename Element, int R, bool inside>
__device__ __forceinline__ void put_weights(Element* to, const float (&cells)[R][R], const Place& place, int width) {
    float above[R + 1] = {};
#pragma unroll
    for (int row = 0; row <= R; ++row) {
        float below[R + 1] = {}, weights[R + 1];
        if (row < R) spread<R>(below, cells[row < R ? row : 0], place.fx);
        mix_rows(weights, place.fy, below, above);
#pragma unroll
        for (int i = 0; i <= R; ++i) {
            if (inside || place.has_tap(row, i)) to[row * width + i] = narrow<Element>(weights[i]);
            above[i] = below[i];
        }
    }
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
