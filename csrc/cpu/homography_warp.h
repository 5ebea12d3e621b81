// What the binding passes to the homography_warp kernels.
#pragma once
#include <cstdint>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/scalar.h"

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
    int threads;
    double anywhere;  // points further outside the source than this are nowhere
    std::int64_t B, C, H, W, Hs, Ws;
    Picture input, out;             // in the backward, out is the gradient that comes in
    const void* homography;         // (B or 1, 3, 3), contiguous, in the compute dtype
    std::int64_t homography_batch;  // its batch stride; 0 shares one
    char* mask;                     // (B, H, W), contiguous; one byte each
};

struct WarpGradients {
    WarpArguments forward;
    Picture input;        // in the compute dtype, zeroed; no data: not needed
    double* homography;   // (B, groups, 3, 3), zeroed; null: not needed
    std::int64_t groups;  // of channels, as equal as can be; each is one item
};

#define VSAD_DECLARE(isa, ...)                                     \
    namespace isa {                                                \
    Work homography_warp_forward(const WarpArguments& arguments);  \
    Work homography_warp_backward(const WarpGradients& arguments); \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
