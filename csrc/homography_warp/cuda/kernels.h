// The host side of the CUDA kernels of homography_warp.
#pragma once
#include <cuda_runtime_api.h>

#include "homography_warp/arguments.h"

namespace vsad {
namespace cuda {

struct WarpGradients {
    WarpArguments forward;
    ImageView
        input;  // the input's gradient, zeroed: float, or with a scale 64-bit fixed point; without data not needed
    const double* scale;  // the scale of fixed-point sums, which are the same in any order; null adds floats
    double* homography;   // (B, homography_warp_parts(), 3, 3), written completely; null where it is not needed
};

std::int64_t homography_warp_parts(const WarpGradients& arguments);
void homography_warp_forward(const WarpArguments& arguments, cudaStream_t stream);
void homography_warp_backward(const WarpGradients& arguments, cudaStream_t stream);

}  // namespace cuda
}  // namespace vsad
