// The products of the tensor core forward: rows of target pixels times rows of source pixels, straight from global
// memory. Which channel stands where in a product is free, as long as both factors agree; so every lane loads as many
// neighboring channels at once as it can.
#pragma once
#include "cuda/ptx.h"
#include "cuda/ptx_mma.h"
#include "homography_align/cuda/packs.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

template <int n>
struct Words {
    unsigned word[n];
};
template <int n, typename Element>
__device__ __forceinline__ Words<n> load_words(const Element* from) {
    Words<n> to;
    if constexpr (n == 4) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
        to = {v.x, v.y, v.z, v.w};
    } else if constexpr (n == 2) {
        const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
        to = {v.x, v.y};
    } else {
        to = {__ldg(reinterpret_cast<const unsigned*>(from))};
    }
    return to;
}

// std::integral_constant whose conversion device code may call.
template <int n>
struct Number {
    VSAD_HD constexpr operator int() const { return n; }
};

// Calls visit(first pack, number of packs), both of them Numbers, for pieces of `most` packs and then of powers of two
// below it.
template <int packs, int most, int first = 0, typename Visit>
__device__ __forceinline__ void for_each_piece(const Visit& visit) {
    if constexpr (packs - first >= most) {
        visit(Number<first>(), Number<most>());
        for_each_piece<packs, most, first + most>(visit);
    } else if constexpr (packs > first) {
        for_each_piece<packs, most / 2, first>(visit);
    }
}

// A lane's addresses in rows of `packs` packs: one for each piece, of `most` packs or of a power of two below it. A
// load adds the offset of its pixel and a constant, so all heads share the addition.
template <int packs, int most>
struct LaneAddress {
    const char* piece[5];

    // `from` is the first pixel's row; in a piece of n packs the lane has `step` * n bytes from `step` * n * `part` on.
    __device__ __forceinline__ LaneAddress(const void* from, int step, int part) {
        int i = 0;
        for_each_piece<packs, most>([&](auto first, auto n) {
            piece[i++] = opaque(static_cast<const char*>(from) + kPackBytes * first + step * n * part);
        });
    }
};

// The channels of a row that this lane holds for the products with the box: of a piece of n packs, n words from channel
// 2 n (lane % 4) on.
template <int packs, typename Element>
__device__ __forceinline__ void load_row(unsigned (&to)[packs], const Element* from) {
    const int quad = threadIdx.x % 4;
    for_each_piece<packs, 4>([&](auto first, auto n) {
        const Words<n> words = load_words<n>(from + 8 * first + 2 * n * quad);
#pragma unroll
        for (int i = 0; i < n; ++i) to[first + i] = words.word[i];
    });
}

// score (16 x 8) += <query, key> of the warp's 16 pixels and eight pixels of the box.
template <int packs, typename Element>
__device__ __forceinline__ void multiply_rows(float (&score)[4], const unsigned (&upper)[packs],
                                              const unsigned (&lower)[packs], const unsigned (&key)[packs]) {
#pragma unroll
    for (int i = 0; i + 1 < packs; i += 2)
        mma(score, {upper[i], lower[i], upper[i + 1], lower[i + 1]}, key[i], key[i + 1], Element{});
    if constexpr (packs % 2) mma(score, {upper[packs - 1], lower[packs - 1], 0, 0}, key[packs - 1], 0, Element{});
}

// The same, of the row `at` bytes behind that of LaneAddress<packs, 4>(.., 4, lane % 4).
template <typename Element, int packs>
__device__ __forceinline__ void load_row(unsigned (&to)[packs], const LaneAddress<packs, 4>& from, unsigned at,
                                         int constant) {
    int piece = 0;
    for_each_piece<packs, 4>([&](auto first, auto n) {
        const char* const lane = from.piece[piece++] + at;
        const Words<n> words = load_words<n>(reinterpret_cast<const Element*>(lane + constant));
#pragma unroll
        for (int i = 0; i < n; ++i) to[first + i] = words.word[i];
    });
}

// sum += weights (16 x 16) times the value rows of 16 pixels of the box, four of which this lane loads, `at` bytes
// behind those of LaneAddress<packs, 8>(.., 2, lane / 4). A piece of n packs makes n products; lane 4 g + j holds
// channels n g to n g + n - 1 of the pixels 2 j, 2 j + 1, 2 j + 8 and 2 j + 9.
template <typename Element, int packs>
__device__ __forceinline__ void add_values(float (&sum)[packs][4], const unsigned (&weights)[4],
                                           const LaneAddress<packs, 8>& from, const unsigned (&at)[4], int constant) {
    int piece = 0;
    for_each_piece<packs, 8>([&](auto first, auto n) {
        const char* const lane = from.piece[piece++];
        if constexpr (n == 1) {
            unsigned channel[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                channel[i] = __ldg(reinterpret_cast<const unsigned short*>(lane + at[i] + constant));
            mma(sum[first], weights, lower_halves(channel[0], channel[1]), lower_halves(channel[2], channel[3]),
                Element{});
        } else {
            Words<n / 2> words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                words[i] = load_words<n / 2>(reinterpret_cast<const Element*>(lane + at[i] + constant));
#pragma unroll
            for (int i = 0; i < n / 2; ++i) {
                const unsigned a = words[0].word[i], b = words[1].word[i], c = words[2].word[i], d = words[3].word[i];
                mma(sum[first + 2 * i], weights, lower_halves(a, b), lower_halves(c, d), Element{});
                mma(sum[first + 2 * i + 1], weights, upper_halves(a, b), upper_halves(c, d), Element{});
            }
        }
    });
}

// Writes factor * sum of one of the two rows of pixels that a lane holds sums of: of a piece of n packs, 2 n channels.
template <typename Element, int packs>
__device__ __forceinline__ void store_row(Element* to, const float (&sum)[packs][4], int row, float factor) {
    const int quad = threadIdx.x % 4;
    for_each_piece<packs, 8>([&](auto first, auto n) {
        float values[2 * n];
#pragma unroll
        for (int i = 0; i < n; ++i) {
            values[i] = factor * (row ? sum[first + i][2] : sum[first + i][0]);
            values[n + i] = factor * (row ? sum[first + i][3] : sum[first + i][1]);
        }
        store_pack<2 * n>(to + 8 * first + 2 * n * quad, values);
    });
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
