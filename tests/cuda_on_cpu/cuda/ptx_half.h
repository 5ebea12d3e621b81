// csrc/cuda/ptx_half.h for the emulator.
#pragma once
#include "cuda/launch.h"
#include "scalar.h"

namespace vsad {
namespace cuda {

inline int reread_thread() { return static_cast<int>(threadIdx.x); }

inline void copy_async_16(void* shared, const void* global, bool exists) {
    if (reinterpret_cast<std::uintptr_t>(shared) % 16 || reinterpret_cast<std::uintptr_t>(global) % 16)
        throw std::logic_error("copy_async_16: not aligned");
    if (exists)
        std::memcpy(shared, global, 16);
    else
        std::memset(shared, 0, 16);
}
inline void copy_async_commit() {}
template <int pending>
void copy_async_wait() {}

inline void load_matrices(unsigned (&to)[4], const void* row) {
    if (reinterpret_cast<std::uintptr_t>(row) % 16) throw std::logic_error("load_matrices: not aligned");
    const auto& rows = emulator::meet_warp(~0u, reinterpret_cast<std::uintptr_t>(row), "load_matrices");
    const int g = emulator::lane() / 4, t = emulator::lane() % 4;
    for (int i = 0; i < 4; ++i)
        std::memcpy(&to[i], reinterpret_cast<const char*>(rows.out[8 * i + g]) + 4 * t, sizeof to[i]);
}

// Lane (g, t) has rows g and g + 8 of `a` and `sum` and column g of `b`; of each, two that lie side by side at 2 t, and
// of `a` and `b` two more 8 further.
inline void multiply_halves(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    unsigned all[32][6];
    const std::uintptr_t where = reinterpret_cast<std::uintptr_t>(mine);
    const auto& lanes = emulator::meet_warp(~0u, where, "multiply_halves");
    for (int i = 0; i < 32; ++i) std::memcpy(all[i], reinterpret_cast<const void*>(lanes.out[i]), sizeof mine);
    emulator::meet_warp(~0u, 0, "multiply_halves");  // now all have read
    const auto half = [](unsigned pair, int i) { return widen(float16{std::uint16_t(pair >> 16 * i)}); };
    const int g = emulator::lane() / 4, t = emulator::lane() % 4;
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 16; ++k) {
            const unsigned* left = all[g * 4 + k % 8 / 2];
            const unsigned* right = all[(2 * t + i % 2) * 4 + k % 8 / 2];
            sum[i] += half(left[k / 8 * 2 + i / 2], k % 2) * half(right[4 + k / 8], k % 2);
        }
}

}  // namespace cuda
}  // namespace vsad
