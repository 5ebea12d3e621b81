// Replaces csrc/cuda/ptx.h in the emulator.
#pragma once
#include <cmath>

#include "cuda/launch.h"

namespace vsad {
namespace cuda {

inline void red_add(float* to, float v) { *to += v; }
inline void red_add(float* to, float2 v) {
    to[0] += v.x, to[1] += v.y;
    if (reinterpret_cast<std::uintptr_t>(to) % sizeof v) throw std::logic_error("red_add: not aligned");
}
inline void red_add(float* to, float4 v) {
    to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w;
    if (reinterpret_cast<std::uintptr_t>(to) % sizeof v) throw std::logic_error("red_add: not aligned");
}

inline int reread_thread() { return static_cast<int>(threadIdx.x); }

inline unsigned lower_halves(unsigned a, unsigned b) { return (a & 0xffffu) | b << 16; }
inline unsigned upper_halves(unsigned a, unsigned b) { return a >> 16 | (b & 0xffff0000u); }

inline float exp2_flushed(float x) { return x < -126 ? 0.f : std::exp2(x); }

inline const char* opaque(const char* p) { return p; }

}  // namespace cuda
}  // namespace vsad
