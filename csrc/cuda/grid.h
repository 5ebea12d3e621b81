// A barrier of all blocks of a cooperative kernel. tests/cuda_on_cpu/cuda/grid.h replaces this file in the emulator.
#pragma once
#include <cooperative_groups.h>

namespace vsad {
namespace cuda {

// After it, every block sees what any block wrote to global memory before it.
__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

}  // namespace cuda
}  // namespace vsad
