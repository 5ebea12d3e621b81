// Packs: 16 bytes of channels of one pixel. kLanes neighboring lanes share a pixel and a head; lane l takes the packs
// l, l + kLanes, ...
#pragma once
#include "cuda/device.h"
#include "homography_align/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f;
constexpr float kMinusInfinity = -__builtin_inff();

// e^x for x <= 0.
__device__ __forceinline__ float exp_of(float x) { return exp2f(kLog2E * x); }

// Channels per pack.
template <typename Element>
constexpr int kPack = kPackBytes / sizeof(Element);

// Packs that each lane keeps in registers. Eight lanes per pixel are those of the tensor core kernel's fallback for
// at most 8 packs.
template <typename Element, int kLanes>
constexpr int kHeld = kLanes == 8            ? 1
                      : sizeof(Element) == 4 ? 3
                                             : 2;

// Packs per slice: what the lanes of a pixel keep in registers together. More channels are split into slices.
template <typename Element, int kLanes>
constexpr int kSlicePacks = kHeld<Element, kLanes> * kLanes;

template <typename Element>
__device__ __forceinline__ void unpack(const uint4& pack, float (&to)[kPack<Element>]) {
    const unsigned words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(Element) == 4) {
            to[i] = bit_cast<float>(words[i]);
        } else {
            to[2 * i] = widen(Element{static_cast<std::uint16_t>(words[i])});
            if constexpr (std::is_same_v<Element, bfloat16>)
                to[2 * i + 1] = bit_cast<float>(words[i] & 0xffff0000u);
            else
                to[2 * i + 1] = widen(Element{static_cast<std::uint16_t>(words[i] >> 16)});
        }
    }
}

template <typename Element>
__device__ __forceinline__ uint4 load_packed(const Element* from) {
    return __ldg(reinterpret_cast<const uint4*>(from));
}

// Keeps the compiler from unpacking what is held packed outside of a loop: the floats would take the registers of two
// packs.
__device__ __forceinline__ uint4 still_packed(uint4 pack) {
    asm volatile("" : "+r"(pack.x), "+r"(pack.y), "+r"(pack.z), "+r"(pack.w));
    return pack;
}

template <typename Element>
__device__ __forceinline__ float dot(const float (&own)[kPack<Element>], const uint4& pack, float sum) {
    float x[kPack<Element>];
    unpack<Element>(pack, x);
#pragma unroll
    for (int i = 0; i < kPack<Element>; ++i) sum += own[i] * x[i];
    return sum;
}

template <typename Element>
__device__ __forceinline__ void add_scaled(float (&sum)[kPack<Element>], float weight, const uint4& pack) {
    float x[kPack<Element>];
    unpack<Element>(pack, x);
#pragma unroll
    for (int i = 0; i < kPack<Element>; ++i) sum[i] += weight * x[i];
}

// All-reduce of n sums across the lanes of a pixel, which are the lowest bits of the thread's index. While n is even,
// the two halves of the lanes exchange halves of the sums, so it takes about n shuffles instead of n log2(lanes).
template <int lanes, int n>
__device__ __forceinline__ void all_reduce_lanes(float (&t)[n]) {
    if constexpr (lanes > 1 && n % 2 == 0) {
        const bool upper = threadIdx.x & (lanes / 2);
        float half[n / 2];
#pragma unroll
        for (int i = 0; i < n / 2; ++i) {
            const float other = __shfl_xor_sync(kWarp, upper ? t[i] : t[i + n / 2], lanes / 2);
            half[i] = (upper ? t[i + n / 2] : t[i]) + other;
        }
        all_reduce_lanes<lanes / 2>(half);
#pragma unroll
        for (int i = 0; i < n / 2; ++i) {
            const float other = __shfl_xor_sync(kWarp, half[i], lanes / 2);
            t[i] = upper ? other : half[i];
            t[i + n / 2] = upper ? half[i] : other;
        }
    } else if constexpr (lanes > 1) {
#pragma unroll
        for (int i = 0; i < n; ++i) t[i] += __shfl_xor_sync(kWarp, t[i], lanes / 2);
        all_reduce_lanes<lanes / 2>(t);
    }
}

// The first of the channels from `channel` on at a pixel.
template <typename Element>
__device__ __forceinline__ const Element* pixel_at(const Image& image, int b, int view, int x, int y, int channel) {
    return reinterpret_cast<const Element*>(image.data) + b * image.batch + view * image.view + y * image.y +
           x * image.x + channel;
}

// One head's channels at one pixel. Each lane keeps its first packs in registers and reloads the others when they are
// needed.
template <typename Element, int kLanes>
struct Row {
    const Element* from;
    int packs;
    uint4 held[kHeld<Element, kLanes>];

    __device__ __forceinline__ Row(const Element* from, int packs) : from(from), packs(packs) {
#pragma unroll
        for (int j = 0; j < kHeld<Element, kLanes>; ++j) held[j] = pack(lane() + j * kLanes);
    }
    static __device__ __forceinline__ int lane() { return threadIdx.x % kLanes; }
    __device__ __forceinline__ uint4 pack(int i) const {
        return i < packs ? load_packed(from + i * kPack<Element>) : make_uint4(0, 0, 0, 0);
    }
};

// Float32 sums of the channels of one slice, from pack `begin` on, of a row of `packs` packs.
template <typename Element, int kLanes>
struct Sums {
    float sum[kHeld<Element, kLanes>][kPack<Element>] = {};
    int begin, packs;

    __device__ __forceinline__ Sums(int begin, int packs) : begin(begin), packs(packs) {}
    // Calls visit(index of the pack in the row, its sums) for every pack of this lane.
    template <typename Visit>
    __device__ __forceinline__ void for_each(const Visit& visit) {
        const int lane = threadIdx.x % kLanes;
#pragma unroll
        for (int j = 0; j < kHeld<Element, kLanes>; ++j) {
            const int pack = begin + lane + j * kLanes;
            if (pack < packs) visit(pack, sum[j]);
        }
    }
    __device__ __forceinline__ void multiply(float factor) {
#pragma unroll
        for (auto& pack : sum)
#pragma unroll
            for (float& s : pack) s *= factor;
    }
    // Writes factor * sums to the row that begins at `to`.
    __device__ __forceinline__ void store(Element* to, float factor) {
        for_each([&](int pack, float (&values)[kPack<Element>]) {
#pragma unroll
            for (int i = 0; i < kPack<Element>; ++i) values[i] *= factor;
            store_pack<kPack<Element>>(to + pack * kPack<Element>, values);
        });
    }
};

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
