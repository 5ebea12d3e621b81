// Hopper's own instructions: mbarriers, TMA copies, clusters, warpgroup matrix products. tests/cuda_on_cpu/cuda/
// ptx_hopper.h replaces this file in the emulator.
#pragma once
#include <cuda.h>

#include <cstdint>
#include <type_traits>

#include "cuda/launch.h"

namespace vsad {
namespace cuda {

// A tensor map of a byte matrix, in tiles of `box` rows of 128 bytes. Tiles are stored in shared memory with 128-byte
// swizzling: 16-byte chunk c of row r at r * 128 + ((c ^ (r % 8)) * 16). Bytes outside the matrix read as zero.
struct TileMap {
    CUtensorMap map;
};

inline TileMap make_tile_map(const void* data, std::int64_t rows, std::int64_t row_bytes, int box) {
    using Encode = decltype(&cuTensorMapEncodeTiled);
    static const Encode encode = [] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult result;
        check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
              "cuTensorMapEncodeTiled");
        if (result != cudaDriverEntryPointSuccess) throw std::runtime_error("the driver has no cuTensorMapEncodeTiled");
        return reinterpret_cast<Encode>(found);
    }();
    TileMap tiles;
    const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(row_bytes), static_cast<cuuint64_t>(rows)};
    const cuuint64_t strides[1] = {static_cast<cuuint64_t>(row_bytes)};
    const cuuint32_t boxes[2] = {128, static_cast<cuuint32_t>(box)}, steps[2] = {1, 1};
    const CUresult status = encode(&tiles.map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(data), sizes,
                                   strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS) throw std::runtime_error("cuTensorMapEncodeTiled: error " + std::to_string(status));
    return tiles;
}

using Barrier = std::uint64_t;  // an mbarrier in shared memory

__device__ __forceinline__ unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Called by one thread; `count` arrivals end a phase.
__device__ __forceinline__ void mbarrier_init(Barrier* barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
// Makes initialized barriers visible to the cluster and to TMA.
__device__ __forceinline__ void mbarrier_fence_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and makes the phase wait for `bytes` bytes of copies too.
__device__ __forceinline__ void mbarrier_arrive_expect(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Waits for the end of the phase of a parity. The first phase has parity 0; the one before it, of parity 1, has ended.
// A check build (VSAD_CUDA_CHECK=1) traps where that takes seconds: a fault is then an error, and not a GPU that hangs.
__device__ __forceinline__ void mbarrier_wait(Barrier* barrier, int parity) {
#if defined(VSAD_CUDA_CHECK)
    constexpr int most_tries = 1 << 22;
    for (int tries = 0;; ++tries) {
        int done;
        asm volatile(
            "{\n"
            ".reg .pred done;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
            "selp.b32 %0, 1, 0, done;\n"
            "}\n"
            : "=r"(done)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
        if (done) return;
        if (tries == most_tries) __trap();
    }
#else
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
#endif
}

// Copies the tile that begins at byte `byte` of row `row` to shared memory aligned to 1024 bytes. The barrier counts
// the bytes that arrive.
__device__ __forceinline__ void tma_load(void* shared, const TileMap& map, int byte, int row, Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(shared)),
        "l"(reinterpret_cast<std::uint64_t>(&map)), "r"(byte), "r"(row), "r"(shared_address(barrier))
        : "memory");
}
// Copies contiguous bytes, a multiple of 16.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, int bytes, Barrier* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// Launches blocks in clusters, whose blocks run at the same time and reach one another's shared memory.
template <typename... Parameters, typename... Arguments>
void launch_cluster(void (*kernel)(Parameters...), int cluster, dim3 grid, dim3 block, std::size_t shared,
                    cudaStream_t stream, const Arguments&... arguments) {
    allow_shared(kernel, shared);
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid, config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &attribute, config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
}
__device__ __forceinline__ int cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
}
// A barrier of all threads of all blocks of the cluster.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Arrives at the barrier at the same address of another block. It orders earlier reads of this thread only: ordering
// writes would need .release.cluster, which waits for all outstanding memory operations each time.
__device__ __forceinline__ void mbarrier_arrive_remote(Barrier* barrier, int rank) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}\n" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
}
// Copies a tile to the same address in both blocks of a cluster; the barrier at the same address in each counts it.
__device__ __forceinline__ void tma_load_to_both(void* shared, const TileMap& map, int byte, int row,
                                                 Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(shared)),
        "l"(reinterpret_cast<std::uint64_t>(&map)), "r"(byte), "r"(row), "r"(shared_address(barrier)),
        "h"(static_cast<std::uint16_t>(3))
        : "memory");
}

// Returns the value unchanged, but the compiler cannot know that it is the same value.
__device__ __forceinline__ const float* opaque(const float* v) {
    asm volatile("" : "+l"(v));
    return v;
}
__device__ __forceinline__ float opaque(float v) {
    asm volatile("" : "+f"(v));
    return v;
}
__device__ __forceinline__ int opaque(int v) {
    asm volatile("" : "+r"(v));
    return v;
}

// Changes the number of registers per thread of a warpgroup; all its warps must call it.
template <int count>
__device__ __forceinline__ void setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ __forceinline__ void setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

// The matrix descriptor of a K-major operand in rows of 128 swizzled bytes.
__device__ __forceinline__ std::uint64_t wgmma_descriptor(const void* shared) {
    constexpr std::uint64_t eight_rows = 1024 >> 4, swizzle_128 = std::uint64_t(1) << 62;
    return (shared_address(shared) & 0x3ffff) >> 4 | std::uint64_t(1) << 16 | eight_rows << 32 | swizzle_128;
}

// Orders accesses to the accumulator registers and to shared memory before the products that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most n committed groups are in flight.
template <int n>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

// Called after the wait: keeps the compiler from moving reads of the accumulators before it.
template <typename T>
__device__ __forceinline__ void wgmma_settle(T (&sum)[128]) {
#pragma unroll
    for (int i = 0; i < 128; ++i)
        if constexpr (std::is_same<T, float>::value)
            asm volatile("" : "+f"(sum[i])::"memory");
        else
            asm volatile("" : "+r"(sum[i])::"memory");
}

// The 128 registers per thread that a product adds to: as instruction text, and as operands of a constraint letter.
#define VSAD_SUM_REGISTERS                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define VSAD_SUM_8(letter, i)                                                                   \
    "+" letter(sum[i]), "+" letter(sum[i + 1]), "+" letter(sum[i + 2]), "+" letter(sum[i + 3]), \
        "+" letter(sum[i + 4]), "+" letter(sum[i + 5]), "+" letter(sum[i + 6]), "+" letter(sum[i + 7])
#define VSAD_SUM_32(letter, i) \
    VSAD_SUM_8(letter, i), VSAD_SUM_8(letter, i + 8), VSAD_SUM_8(letter, i + 16), VSAD_SUM_8(letter, i + 24)
#define VSAD_SUM_OPERANDS(letter) \
    VSAD_SUM_32(letter, 0), VSAD_SUM_32(letter, 32), VSAD_SUM_32(letter, 64), VSAD_SUM_32(letter, 96)

// sum = a b, or += where `adds`, of a warpgroup: 64 rows of `a`, 256 of `b`, 32 bytes of depth. The thread of lane l in
// warp w holds row 16 w + l / 4 + 8 i of column 8 j + 2 (l % 4) + c in sum[4 j + 2 i + c]. `sum` holds the result only
// after wgmma_wait.
__device__ __forceinline__ void wgmma(float (&sum)[128], std::uint64_t a, std::uint64_t b, bool adds) {
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" VSAD_SUM_REGISTERS
        "}, %128, %129, adds, 1, 1, 0, 0;\n"
        "}\n"
        : VSAD_SUM_OPERANDS("f")
        : "l"(a), "l"(b), "r"(int(adds)));
}
__device__ __forceinline__ void wgmma(int (&sum)[128], std::uint64_t a, std::uint64_t b, bool adds) {
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {" VSAD_SUM_REGISTERS
        "}, %128, %129, adds;\n"
        "}\n"
        : VSAD_SUM_OPERANDS("r")
        : "l"(a), "l"(b), "r"(int(adds)));
}

#undef VSAD_SUM_REGISTERS
#undef VSAD_SUM_8
#undef VSAD_SUM_32
#undef VSAD_SUM_OPERANDS

}  // namespace cuda
}  // namespace vsad
