// Replaces csrc/cuda/launch.h in the emulator: kernels run immediately, on the CPU.
#pragma once
#include "cuda/intrinsics.h"

namespace vsad {
namespace cuda {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t,
            const Arguments&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    emulator::run(grid, block, shared, false, [&] { kernel(arguments...); });
}

template <typename... Parameters, typename... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t,
                        const Arguments&... arguments) {
    emulator::run(grid, block, shared, true, [&] { kernel(arguments...); });
}

template <typename... Parameters>
int resident_blocks(void (*)(Parameters...), int, std::size_t) {
    return 3;
}

// 90, unless VSAD_EMULATOR_CAPABILITY names another compute capability.
inline int capability() {
    const char* number = std::getenv("VSAD_EMULATOR_CAPABILITY");
    return number ? std::atoi(number) : 90;
}

inline void zero(void* data, std::size_t bytes, cudaStream_t) { std::memset(data, 0, bytes); }

inline unsigned char* dynamic_shared() { return emulator::self().block->shared; }

}  // namespace cuda
}  // namespace vsad
