// What the binding passes to the homography_align kernels.
//
// Kernels know one layout: channels last, every head a whole number of 16-byte packs. The launcher copies what lies
// otherwise once, which moves every byte twice; a path that reads single channels would instead issue 4 or 8 times as
// many loads for each of the N (R+1)^2 taps that every pixel reads.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/scalar.h"

namespace vsad {
namespace cuda {

constexpr int kPackBytes = 16;
constexpr int kMaxWindow = 7;  // kernels are compiled for 1, 3, 5 and 7

// A tensor (batch, view, y, x, channel) whose channels lie side by side; strides count elements. Steps within a window
// fit 32 bits.
struct AlignImage {
    char* data = nullptr;
    std::int64_t batch, view, y, x;
};

struct AlignArguments {
    Scalar dtype;
    int heads, window;
    float scale;
    std::int64_t B, V, S, N, H, W, Hs, Ws;
    int key_packs, value_packs;  // of a head
    AlignImage query, key, value, out;
    const float* homography;        // (B or 1, V, N, 3, 3), contiguous
    std::int64_t homography_batch;  // its batch stride; 0 shares one batch
    const std::int64_t* neighbors;  // (V, N), contiguous; what is not in [0, S) marks an empty slot
    const float* bias;              // (heads, N, window, window), contiguous; may be null
    float* lse;                     // (B, V, heads, H, W), contiguous
};

struct AlignBox {
    int left, top, right, bottom;  // source pixels, all included; empty where right < left
};

// Gradients are dense (B, V, H, W, channels); null: not needed.
struct AlignGradients {
    AlignArguments forward;  // `out` may be null: <grad_out, out> is recomputed, as a rounded out would not do
    AlignImage grad_out;
    const float* grad_lse;  // like lse; may be null
    char* query;            // in the dtype
    char *key, *value;      // float and zeroed where gradients are scattered, else in the dtype
    double* homography;     // (B, V, N, tiles * heads, 3, 3), zeroed: parts of the sums
    double* bias;           // (heads, N, B * V * tiles, window, window), zeroed: parts of the sums
    float* inner;           // (B, V, heads, H, W): <grad_out, out>; given where gradients are gathered
    AlignBox* boxes;        // (B, V, N, tiles): what the tiles' windows touch; given where gradients are gathered
};

std::int64_t homography_align_tiles(std::int64_t H, std::int64_t W);  // of one view, in the backward
void homography_align_forward(const AlignArguments& arguments, cudaStream_t stream);
bool homography_align_forward_mma(const AlignArguments& arguments, cudaStream_t stream);  // false: not for this call
// All gradients, those of key and value added to; or, where `inner` and `boxes` are given, all but those two.
void homography_align_backward(const AlignGradients& gradients, cudaStream_t stream);
// The gradients of key and value after that: the same bits on every run.
void homography_align_gather(const AlignGradients& gradients, cudaStream_t stream);

}  // namespace cuda
}  // namespace vsad
