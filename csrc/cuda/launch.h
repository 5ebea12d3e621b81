// Launching kernels. tests/cuda_on_cpu/cuda/launch.h replaces this file in the emulator.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>

// Defined where code is compiled for sm_90a; what needs Hopper's own instructions is compiled only there.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define VSAD_SM90A
#endif

namespace vsad {
namespace cuda {

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

inline int current_device() {
    int device = 0;
    check(cudaGetDevice(&device), "device");
    return device;
}

// What was asked of the driver once: asking takes microseconds, of which a call has few.
template <typename Key, typename Value>
class Remembered {
  public:
    // The value of a key, which `ask` gives at the first time.
    template <typename Ask>
    Value operator()(const Key& key, Ask ask) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = values_.find(key);
        return found != values_.end() ? found->second : values_.emplace(key, ask()).first->second;
    }

  private:
    std::mutex mutex_;
    std::map<Key, Value> values_;
};

// Allows a kernel more than 48 KB of dynamic shared memory, which must be requested once per kernel and device. The
// limit is never lowered: a captured graph may launch the kernel with more.
template <typename... Parameters>
void allow_shared(void (*kernel)(Parameters...), std::size_t shared) {
    if (shared <= 48 * 1024) return;
    const void* const function = reinterpret_cast<const void*>(kernel);
    static Remembered<std::tuple<int, const void*, std::size_t>, bool> allowed;
    allowed({current_device(), function, shared}, [&] {
        cudaFuncAttributes now;
        check(cudaFuncGetAttributes(&now, function), "shared memory");
        if (now.maxDynamicSharedSizeBytes < static_cast<int>(shared))
            check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
                  "shared memory");
        return true;
    });
}

// Runs kernel<<<grid, block, shared, stream>>>(arguments...); an empty grid launches nothing.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t stream,
            const Arguments&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    allow_shared(kernel, shared);
    kernel<<<grid, block, shared, stream>>>(arguments...);
    check(cudaGetLastError(), "launch");
}

// Launches all blocks at the same time, so that they can wait for one another.
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

// The number of blocks of a kernel that the device runs at the same time.
template <typename... Parameters>
int resident_blocks(void (*kernel)(Parameters...), int threads, std::size_t shared) {
    static Remembered<std::tuple<int, const void*, int, std::size_t>, int> known;
    const int device = current_device();
    return known({device, reinterpret_cast<const void*>(kernel), threads, shared}, [&] {
        int processors = 0, blocks = 0;
        allow_shared(kernel, shared);
        check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device");
        check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared), "occupancy");
        return blocks * processors;
    });
}

// The compute capability of the current device, as 10 * major + minor.
inline int capability() {
    static Remembered<int, int> known;
    const int device = current_device();
    return known(device, [&] {
        int major = 0, minor = 0;
        check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
        check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device");
        return 10 * major + minor;
    });
}

inline void zero(void* data, std::size_t bytes, cudaStream_t stream) {
    if (bytes) check(cudaMemsetAsync(data, 0, bytes, stream), "memset");
}

#if defined(__CUDACC__)
// The dynamic shared memory of the block.
__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}
#endif

}  // namespace cuda
}  // namespace vsad
