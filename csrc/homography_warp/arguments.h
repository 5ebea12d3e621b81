// The call of homography_warp in numbers: what the bindings pass to the kernels of the CPU and of the GPU.
#pragma once
#include <cstdint>

#include "common/scalar.h"

namespace vsad {

enum class Mode : int { nearest, bilinear, bicubic };  // the codes that Python passes
enum class Padding : int { zeros, border, reflection };

// A tensor (batch, channel, y, x) where it lies; strides count elements and may be zero or negative.
struct Picture {
    char* data = nullptr;
    std::int64_t batch, channel, y, x;
};

struct WarpArguments {
    Scalar dtype;
    Mode mode;
    Padding padding;
    int threads;      // of the CPU
    double anywhere;  // points further outside the source than this are nowhere
    std::int64_t B, C, H, W, Hs, Ws;
    Picture input, out;             // in the backward, out is the gradient that comes in
    const void* homography;         // (B or 1, 3, 3), contiguous, in the compute dtype
    std::int64_t homography_batch;  // its batch stride; 0 shares one
    char* mask;                     // (B, H, W), contiguous; one byte each
};

}  // namespace vsad
