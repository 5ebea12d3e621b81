// Replaces csrc/cuda/grid.h in the emulator.
#pragma once
#include "cuda/launch.h"

namespace vsad {
namespace cuda {

inline void grid_sync() {
    const dim3 grid = emulator::current().grid, block = emulator::current().block;
    emulator::meet(emulator::current().barrier,
                   static_cast<int>(grid.x * grid.y * grid.z * block.x * block.y * block.z), "grid_sync");
}

}  // namespace cuda
}  // namespace vsad
