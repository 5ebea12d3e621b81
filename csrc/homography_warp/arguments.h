// The arguments of homography_warp as numbers and pointers: what the bindings pass to the kernels of CPU and GPU.
#pragma once
#include <cstdint>

#include "common/scalar.h"

namespace vsad {

// Python passes these codes: the positions in MODES and PADDINGS of vsad/ops/homography_warp/call.py.
enum class Mode : int { nearest, bilinear, bicubic };
enum class Padding : int { zeros, border, reflection };

// A (batch, channel, y, x) tensor where it lies in memory; strides count elements and may be zero or negative.
struct ImageView {
    char* data = nullptr;
    std::int64_t batch, channel, y, x;
};

struct WarpArguments {
    ImageView input;                // (B, C, Hs, Ws)
    const void* homography;         // (B or 1, 3, 3), contiguous, in the compute dtype
    std::int64_t homography_batch;  // its batch stride; 0 shares one homography
    ImageView out;                  // (B, C, H, W); in the backward, the gradient that comes in
    char* mask;                     // (B, H, W), contiguous, one byte per pixel; null: nobody wants it
    std::int64_t B, C, H, W, Hs, Ws;
    Mode mode;
    Padding padding;
    Scalar dtype;
    double coordinate_limit;  // points further than this outside the source are not sampled
    int threads;              // how many the CPU kernels may use
};

}  // namespace vsad
