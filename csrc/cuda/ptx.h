// PTX instructions without a CUDA intrinsic. tests/cuda_on_cpu/cuda/ptx.h replaces this file in the emulator.
#pragma once
#include "cuda/launch.h"

namespace vsad {
namespace cuda {

// Atomically adds to global memory, relaxed, at device scope, and returns nothing. `to` must be aligned to the size of
// v.
__device__ __forceinline__ void red_add(float* to, float v) {
    asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(to), "f"(v) : "memory");
}
__device__ __forceinline__ void red_add(float* to, float2 v) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(v.x), "f"(v.y) : "memory");
#else
    red_add(to, v.x), red_add(to + 1, v.y);
#endif
}
__device__ __forceinline__ void red_add(float* to, float4 v) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x), "f"(v.y), "f"(v.z),
                 "f"(v.w)
                 : "memory");
#else
    red_add(to, make_float2(v.x, v.y)), red_add(to + 2, make_float2(v.z, v.w));
#endif
}

// threadIdx.x, read again from its register: the compiler cannot keep values derived from an earlier read, which would
// occupy registers throughout a long kernel.
__device__ __forceinline__ int reread_thread() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

// The lower, or the upper, 16 bits of two registers in one, those of a in the lower bits.
__device__ __forceinline__ unsigned lower_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ unsigned upper_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x7632); }

// 2^x for x <= 0 or NaN; zero where that is smaller than the least normal number.
__device__ __forceinline__ float exp2_flushed(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// p, of which the compiler knows nothing: it keeps the address in registers and does not add up its terms anew at every
// load.
__device__ __forceinline__ const char* opaque(const char* p) {
    asm volatile("" : "+l"(p));
    return p;
}

}  // namespace cuda
}  // namespace vsad
