// Launching kernels. The emulator of tests/cuda_on_cpu has a file of its own in place of this one.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <tuple>

// Bodies that need Hopper's own instructions stand behind this; other architectures compile them empty.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define VSAD_SM90A
#endif

namespace vsad {
namespace cuda {

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// More than 48 KB must be asked for, once a kernel and device. Never for less than before: a captured graph may hold
// the kernel with more.
template <typename... Parameters>
void allow_shared(void (*kernel)(Parameters...), std::size_t shared) {
    if (shared <= 48 * 1024) return;
    cudaFuncAttributes now;
    check(cudaFuncGetAttributes(&now, reinterpret_cast<const void*>(kernel)), "shared memory");
    if (now.maxDynamicSharedSizeBytes < static_cast<int>(shared))
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared)),
              "shared memory");
}

// kernel<<<grid, block, shared, stream>>>(arguments...); an empty grid starts nothing.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t stream,
            const Arguments&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    allow_shared(kernel, shared);
    kernel<<<grid, block, shared, stream>>>(arguments...);
    check(cudaGetLastError(), "launch");
}

// All blocks run at the same time, so that they may wait for one another.
template <typename... Parameters, typename... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t stream,
                        const Arguments&... arguments) {
    allow_shared(kernel, shared);
    std::tuple<Parameters...> values(arguments...);
    std::apply(
        [&](auto&... value) {
            void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))...};
            check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared,
                                              stream),
                  "launch");
        },
        values);
}

// How many blocks of a kernel are on the device at the same time.
template <typename... Parameters>
int resident_blocks(void (*kernel)(Parameters...), int threads, std::size_t shared) {
    int device = 0, processors = 0, blocks = 0;
    allow_shared(kernel, shared);
    check(cudaGetDevice(&device), "device");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device");
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared), "occupancy");
    return blocks * processors;
}

// 10 * major + minor of the current device.
inline int capability() {
    int device = 0, major = 0, minor = 0;
    check(cudaGetDevice(&device), "device");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device");
    return 10 * major + minor;
}

inline void zero(void* data, std::size_t bytes, cudaStream_t stream) {
    if (bytes) check(cudaMemsetAsync(data, 0, bytes, stream), "memset");
}

#if defined(__CUDACC__)
// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}
#endif

}  // namespace cuda
}  // namespace vsad
