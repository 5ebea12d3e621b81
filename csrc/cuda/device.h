// What kernels share: dispatch by dtype, vectorized loads and stores, sums across a warp.
#pragma once
#include <cstdint>

#include "common/scalar.h"
#include "cuda/launch.h"

namespace vsad {
namespace cuda {

// Calls f(Element{}) for the element type of a dtype.
template <typename F>
void with_float_type(Scalar dtype, F f) {
    switch (dtype) {
        case Scalar::float32:
            return f(float{});
        case Scalar::bfloat16:
            return f(bfloat16{});
        case Scalar::float16:
            return f(float16{});
        default:
            throw std::invalid_argument("no CUDA kernel takes this dtype");
    }
}

constexpr unsigned kWarp = 0xffffffffu;  // all lanes

// n contiguous elements that are loaded and stored in one instruction.
template <typename Element, int n>
struct alignas(sizeof(Element) * n) Pack {
    Element value[n];
};

template <int n, typename Element>
__device__ __forceinline__ void load_pack(const Element* from, float (&to)[n]) {
    const Pack<Element, n> pack = *reinterpret_cast<const Pack<Element, n>*>(from);
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = widen(pack.value[i]);
}
template <int n, typename Element>
__device__ __forceinline__ void store_pack(Element* to, const float (&from)[n]) {
    Pack<Element, n> pack;
#pragma unroll
    for (int i = 0; i < n; ++i) pack.value[i] = narrow<Element>(from[i]);
    *reinterpret_cast<Pack<Element, n>*>(to) = pack;
}

// All-reduce sum across the lanes of a warp, always in the same order.
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kWarp, v, step);
    return v;
}

}  // namespace cuda
}  // namespace vsad
