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

// Of two bfloat16 in a register each takes one instruction.
template <typename Element, int n>
__device__ __forceinline__ void widen_pack(const Pack<Element, n>& pack, float (&to)[n]) {
    if constexpr (std::is_same_v<Element, bfloat16> && n % 2 == 0) {
        const auto words = bit_cast<Pack<std::uint32_t, n / 2>>(pack);
#pragma unroll
        for (int i = 0; i < n; i += 2) {
            to[i] = bit_cast<float>(words.value[i / 2] << 16);
            to[i + 1] = bit_cast<float>(words.value[i / 2] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (int i = 0; i < n; ++i) to[i] = widen(pack.value[i]);
    }
}
template <int n, typename Element>
__device__ __forceinline__ void load_pack(const Element* from, float (&to)[n]) {
    widen_pack(*reinterpret_cast<const Pack<Element, n>*>(from), to);
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
