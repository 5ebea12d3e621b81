// The host side of the greedy_coreset kernel.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/scalar.h"

namespace vsad {
namespace cuda {

struct CoresetArguments {
    Scalar dtype;
    std::int64_t M, C, size, start;
    const char* features;  // (M, C), with a channel stride of 1
    std::int64_t stride;   // row stride in elements
    const float* center;   // (C,), finite; results do not depend on it, and near the mean screening errs least
    const float* spread;   // the largest |feature - center| of a sample; results do not depend on it
    std::int64_t* picks;   // (size,), written completely
    void* workspace;       // coreset_workspace() bytes of any content, aligned to 256
};

// For M points with C channels of a dtype on the current device.
std::size_t coreset_workspace(std::int64_t M, std::int64_t C, Scalar dtype);
void greedy_coreset(const CoresetArguments& arguments, cudaStream_t stream);

}  // namespace cuda
}  // namespace vsad
