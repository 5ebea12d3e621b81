// What the bindings of the CUDA kernels share.
#pragma once
#include <cuda_runtime_api.h>

#include "common/bind.h"

namespace vsad {
namespace cuda {

inline cudaStream_t stream_at(Pointer stream) { return reinterpret_cast<cudaStream_t>(stream); }

}  // namespace cuda
}  // namespace vsad
