// Products of half types on tensor cores (sm_80 and later). tests/cuda_on_cpu/cuda/ptx_align.h has the same functions
// for the emulator.
#pragma once
#include "cuda/launch.h"
#include "scalar.h"

namespace vsad {
namespace cuda {

// sum (16 x 8) += a (16 x 16) b (16 x 8), in a warp; lane 4 g + j holds rows g and g + 8 of a and sum, column g of b.
__device__ __forceinline__ void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, bfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, float16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The lower, or the upper, halves of two registers in one, a's below.
__device__ __forceinline__ unsigned lower_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ unsigned upper_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x7632); }

}  // namespace cuda
}  // namespace vsad
