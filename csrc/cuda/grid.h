// Where all blocks of a cooperative kernel wait for one another. The emulator has a file of its own in place of this
// one.
#pragma once
#include <cooperative_groups.h>

namespace vsad {
namespace cuda {

// What a block wrote to global memory before, all blocks read after.
__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

}  // namespace cuda
}  // namespace vsad
