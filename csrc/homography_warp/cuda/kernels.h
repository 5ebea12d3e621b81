// The host side of the CUDA kernels of homography_warp.
#pragma once
#include <cuda_runtime_api.h>

#include "homography_warp/arguments.h"

namespace vsad {
namespace cuda {

struct WarpGradients {
    WarpArguments forward;
    // The gradient of the input, zeroed: float32, or 64-bit fixed point when there is a scale. Its data is null where
    // the gradient is not needed.
    ImageView input;
    const double* scale;  // the scale of fixed-point sums, which are the same in any order; null adds floats
    double* homography;   // (B, homography_warp_parts(), 3, 3), written completely; null where it is not needed
};

std::int64_t homography_warp_parts(const WarpGradients& arguments);
void homography_warp_forward(const WarpArguments& arguments, cudaStream_t stream);
void homography_warp_backward(const WarpGradients& arguments, cudaStream_t stream);

}  // namespace cuda
}  // namespace vsad
