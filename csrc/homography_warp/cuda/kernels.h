// The host side of the homography_warp kernels.
#pragma once
#include <cuda_runtime_api.h>

#include "homography_warp/arguments.h"

namespace vsad {
namespace cuda {

struct WarpGradients {
    WarpArguments forward;
    Picture input;        // float, zeroed; 64-bit whole numbers where `scale` is given; no data: not needed
    const double* scale;  // of the whole numbers, whose sum is the same in any order; null adds floats
    double* homography;   // (B, homography_warp_parts(), 3, 3), all of it written; null: not needed
};

std::int64_t homography_warp_parts(const WarpGradients& arguments);
void homography_warp_forward(const WarpArguments& arguments, cudaStream_t stream);
void homography_warp_backward(const WarpGradients& arguments, cudaStream_t stream);

}  // namespace cuda
}  // namespace vsad
