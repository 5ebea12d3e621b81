// What kernels share: vectors of channels in memory, sums over a warp.
#pragma once
#include <cstdint>

#include "common/scalar.h"
#include "cuda/launch.h"

namespace vsad {
namespace cuda {

// f(Element{}) for the type that Python's code names.
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

// n elements that lie side by side and are read and written at once.
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

// The sum over a warp, in every lane, always in the same order.
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kWarp, v, step);
    return v;
}

}  // namespace cuda
}  // namespace vsad
