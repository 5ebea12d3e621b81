// The forward of float16 / bfloat16 on tensor cores, for heads of 16, 32, 40, 64, 80 or 160 channels and windows of 3
// and 5.
//
// A warp takes 4 x 4 target pixels of one or two heads and, slot by slot, the box of source pixels that their windows
// touch: 49 at a scale near one, where the windows one by one touch 256. It multiplies all its pixels with all of the
// box, which costs tensor cores little and loads every tap once. Every pixel and head then picks its window's scores
// from shared memory, mixes them, and leaves the weights of its taps there, zero in the rest of the box, for the
// product with the values. Weights are rounded to the dtype, as plain torch does; all sums are float32.
//
// The warps of a block share tiles of 4 x 4 pixels between heads. What depends on the geometry alone they find together
// (outlook.h), for as many slots as there is room, before all of them go through these slots.
//
// Where a box is too large (H minifies, or a horizon is near), or a sum is not finite (zero times infinity somewhere in
// a box is NaN), the warp's pixels are computed again with ordinary instructions.
//
// Launch table, by the packs of a head, 8 warps per block:
//     windows of 3    2, 4, 5; two heads or more    two heads per warp, 2 blocks per multiprocessor
//                     2, 4, 5, 8                    one head per warp, 2 blocks per multiprocessor
//                     10, 20                        one head per warp, 1 block per multiprocessor
//     windows of 5    2, 4, 5                       one head per warp, 2 blocks per multiprocessor
//                     8, 10, 20                     one head per warp, 1 block per multiprocessor
#include "homography_align/cuda/forward_pixel.h"
#include "homography_align/cuda/mma_rows.h"
#include "homography_align/cuda/mma_tiles.h"
#include "homography_align/cuda/mma_window.h"
#include "homography_align/cuda/outlook.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kOutlooks = 8;  // outlooks of a block at a time
constexpr int kPairBox = 64;  // the most source pixels of a box whose scores fit for two heads at once

// The fallback's lanes per pixel, for heads of so many packs.
template <int packs>
constexpr int kFallbackLanes = packs > 8 ? kWideLanes : 8;

// Floats per row of scores, for so many heads at once, and words per row of weights. The lanes of a product write and
// read different banks.
template <int together>
constexpr int kScores = (together == 2 ? kPairBox : kBox) + 8;
template <int together>
constexpr int kWeights = (together == 2 ? kPairBox : kBox) / 2 + 4;
// Words between the rows of a warp's two heads. Without them, lanes of the softmax that have the same pixel would read
// the same banks: 69 wavefronts for the scores of a slot's windows, in the mean of homographies near the identity, in
// place of 40, and 58 in place of 47 to write their weights.
constexpr int kBetweenHeads = 4;

// A warp's scores, which its weights overwrite: a row for each pixel, and for each of the heads that it takes at once.
struct alignas(16) Strip {
    float scores[2 * kRows * kScores<2> + kBetweenHeads];

    template <int together>
    __device__ __forceinline__ float* score_row(int row) {
        return scores + row * kScores<together> + row / kRows * kBetweenHeads;
    }
    template <int together>
    __device__ __forceinline__ unsigned* weight_row(int row) {
        return reinterpret_cast<unsigned*>(scores) + row * kWeights<together> + row / kRows * kBetweenHeads;
    }
};
static_assert(kRows * kScores<1> <= 2 * kRows * kScores<2>, "one head with a large box takes no more room");

struct Shared {
    Strip strips[kWarps];
    WarpTile tiles[kWarps];  // read where they are needed; registers would hold them all the while
    Outlook outlooks[kOutlooks];
};

// The lane's place. In products it holds the rows `group` and `group` + 8 of pixels and the columns of `quad`. In the
// softmax it has a pixel and, where the warp takes two heads, the first or the second of them.
struct Lane {
    int index = threadIdx.x % 32, group = index / 4, quad = index % 4;
    int pixel = index % kRows, second = index / kRows;
};

// The two rows of pixels that a lane holds in products: `group` and `group` + 8, two image rows below.
struct PixelRows {
    int x, upper_y, lower_y;
    bool has_upper, has_lower;

    __device__ __forceinline__ PixelRows(const AlignArguments& a, const WarpTile& tile, const Lane& lane)
        : x(tile.x + lane.group % kSide),
          upper_y(tile.y + lane.group / kSide),
          lower_y(upper_y + 2),
          has_upper(x < a.W && upper_y < a.H),
          has_lower(x < a.W && lower_y < a.H) {}
};

// Queries and sums of a warp's heads.
template <int packs, int heads>
struct Heads {
    unsigned upper[heads][packs] = {}, lower[heads][packs] = {};
    float sum[heads][packs][4] = {};
};

// scores = <query, key> of all the warp's pixels and all of the box, for the heads from `first` on.
template <typename Element, int together, int first, int packs, int heads>
__device__ __forceinline__ void multiply_keys(Strip& s, const Heads<packs, heads>& h, const Outlook& o,
                                              const Element* keys, const Lane& lane) {
    const int count = o.count;
    const LaneAddress<packs, 4> from(keys, 4, lane.quad);
    const unsigned* at = &o.key_at[lane.group];
    float* to = s.score_row<together>(lane.group) + 2 * lane.quad;
#pragma unroll 2
    for (int i = 0; i < count; i += 8, at += 8, to += 8) {
        unsigned key[together][packs];
#pragma unroll
        for (int j = 0; j < together; ++j) load_row<Element>(key[j], from, *at, (first + j) * packs * kPackBytes);
#pragma unroll
        for (int j = 0; j < together; ++j) {
            float score[4] = {};
            multiply_rows<packs, Element>(score, h.upper[first + j], h.lower[first + j], key[j]);
            constexpr int lower = 8 * kScores<together>, next_head = kRows * kScores<together> + kBetweenHeads;
            *reinterpret_cast<float2*>(to + j * next_head) = make_float2(score[0], score[1]);
            *reinterpret_cast<float2*>(to + j * next_head + lower) = make_float2(score[2], score[3]);
        }
    }
}

// The lane's window from scores to weights. Returns add_cells' factor.
template <typename Element, int R, int together, bool inside>
__device__ __forceinline__ float attend(Strip& s, Softmax& softmax, const Outlook& o, const Lane& lane, float scale,
                                        const float* bias) {
    const int row = together == 2 ? lane.index : lane.pixel;
    const Place place = o.places[lane.pixel];
    float cells[R][R];
    const float highest =
        find_logits<R, inside>(cells, s.score_row<together>(row) + place.at, place, o.width, scale, bias, softmax.peak);
    const float keep = add_cells<R>(softmax, cells, highest);
    __syncwarp();  // everyone has read the scores, which the weights overwrite
    unsigned* const weights = s.weight_row<together>(row);
    const int chunks = 2 * o.steps();  // of 16 bytes; the lanes of a pixel share a head's
#pragma unroll
    for (int i = 0; i < (together == 2 ? kPairBox : kBox / 2) / 8; ++i) {
        const int chunk = together == 2 ? i : 2 * i + lane.second;
        if (chunk < chunks) *reinterpret_cast<uint4*>(weights + 4 * chunk) = make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
    if (together == 2 || !lane.second)
        put_weights<Element, R, inside>(reinterpret_cast<Element*>(weights) + place.at, cells, place, o.width);
    __syncwarp();
    return keep;
}

// sum += weights times the box's values, for the heads from `first` on.
template <typename Element, int together, int first, int packs, int heads>
__device__ __forceinline__ void multiply_values(Heads<packs, heads>& h, Strip& s, const Outlook& o,
                                                const Element* values, const Lane& lane) {
    const int steps = o.steps();
    const LaneAddress<packs, 8> from(values, 2, lane.group);
    const unsigned* row = s.weight_row<together>(lane.pixel) + 4 * lane.second;
    const unsigned* value_at = &o.value_at[2 * lane.quad];
#pragma unroll 1
    for (int i = 0; i < steps; ++i, row += 8, value_at += 16) {
        const uint2 near = *reinterpret_cast<const uint2*>(value_at);
        const uint2 next = *reinterpret_cast<const uint2*>(value_at + 8);
        const unsigned at[4] = {near.x, near.y, next.x, next.y};
#pragma unroll
        for (int j = 0; j < together; ++j) {
            unsigned weights[4];
            ldmatrix(weights, row + j * (kRows * kWeights<together> + kBetweenHeads));
            add_values<Element>(h.sum[first + j], weights, from, at, (first + j) * packs * kPackBytes);
        }
    }
}

// Multiplies the sums with their pixels' factors, which the lanes of the softmax hold from lane `begin` on.
template <int packs>
__device__ __forceinline__ void rescale(float (&sum)[packs][4], float keep, int begin, const Lane& lane) {
    const float upper = __shfl_sync(kWarp, keep, begin + lane.group);
    const float lower = __shfl_sync(kWarp, keep, begin + lane.group + 8);
#pragma unroll
    for (int i = 0; i < packs; ++i) {
        sum[i][0] *= upper;
        sum[i][1] *= upper;
        sum[i][2] *= lower;
        sum[i][3] *= lower;
    }
}

// Goes through the box of a slot, for `together` heads at once from `first` on; both counted within the warp.
template <typename Element, int R, int together, int first, int packs, int heads>
__device__ __forceinline__ void go_through(Heads<packs, heads>& h, Softmax& softmax, Strip& s, const Outlook& o,
                                           const PackedAlignArguments& a, int head, int slot, const Lane& lane) {
    const std::int64_t channel = head * packs * kPack<Element>;
    multiply_keys<Element, together, first>(
        s, h, o, reinterpret_cast<const Element*>(a.key.data) + o.key_corner + channel, lane);
    __syncwarp();

    // One of a warp's two heads at a time: the lanes of both compute it, and those that it belongs to keep the result.
    constexpr int begin = first * kRows;
    Softmax own = softmax;
    if (together < heads)
        own = {__shfl_sync(kWarp, own.peak, begin + lane.pixel), __shfl_sync(kWarp, own.total, begin + lane.pixel)};
    const float* const bias = bias_of(a, head + (together == 2 ? lane.second : first), slot);
    const float keep = o.inside ? attend<Element, R, together, true>(s, own, o, lane, a.logit_scale, bias)
                                : attend<Element, R, together, false>(s, own, o, lane, a.logit_scale, bias);
    if (together == heads || lane.second == first) softmax = own;
#pragma unroll
    for (int j = 0; j < together; ++j) rescale(h.sum[first + j], keep, j * kRows, lane);

    multiply_values<Element, together, first>(
        h, s, o, reinterpret_cast<const Element*>(a.value.data) + o.value_corner + channel, lane);
    __syncwarp();  // everyone has read the weights, which the next scores overwrite
}

// Writes sum / total, or 0 where nothing was valid, of a head whose totals' inverses the lanes from `begin` on hold.
template <typename Element, int packs>
__device__ __forceinline__ void write_out(const PackedAlignArguments& a, const WarpTile& tile, int head,
                                          const PixelRows& rows, const float (&sum)[packs][4], float inverse, int begin,
                                          const Lane& lane) {
    const float upper = __shfl_sync(kWarp, inverse, begin + lane.group);
    const float lower = __shfl_sync(kWarp, inverse, begin + lane.group + 8);
    const auto out = [&](int row_y) {
        return const_cast<Element*>(
            pixel_at<Element>(a.out, tile.b, tile.v, rows.x, row_y, head * packs * kPack<Element>));
    };
    if (rows.has_upper) store_row<Element>(out(rows.upper_y), sum, 0, upper);
    if (rows.has_lower) store_row<Element>(out(rows.lower_y), sum, 1, lower);
}

// The warp's pixels and heads with ordinary instructions. Not inlined, and called when nothing else is left to do, so
// that its registers do not count for the kernel; takes integers because a struct would be passed on the stack.
template <typename Element, int R, int kLanes, int heads>
__device__ __noinline__ void forward_fallback(const PackedAlignArguments& a, int b, int v, int head, int x, int y) {
#pragma unroll 1
    for (int i = threadIdx.x % 32 / kLanes; i < heads * kRows; i += 32 / kLanes)
        forward_pixel<Element, R, kLanes>(a, b, v, heads == 1 ? head : head + i / kRows, 0, x + i % kSide,
                                          y + i % kRows / kSide);
}

// Loads the queries of a warp's heads.
template <typename Element, int packs, int heads>
__device__ __forceinline__ void load_queries(Heads<packs, heads>& h, const PackedAlignArguments& a,
                                             const WarpTile& tile, const Lane& lane) {
    const PixelRows rows(a, tile, lane);
#pragma unroll
    for (int j = 0; j < heads; ++j) {
        const int channel = (tile.head + j) * packs * kPack<Element>;
        if (rows.has_upper)
            load_row(h.upper[j], pixel_at<Element>(a.query, tile.b, tile.v, rows.x, rows.upper_y, channel));
        if (rows.has_lower)
            load_row(h.lower[j], pixel_at<Element>(a.query, tile.b, tile.v, rows.x, rows.lower_y, channel));
    }
}

// Writes out, peak and log_sum of a warp's heads. Returns false, having left `out` to be written, where a sum is not
// finite.
template <typename Element, int packs, int heads>
__device__ __forceinline__ bool write_results(const PackedAlignArguments& a, const WarpTile& tile,
                                              const Heads<packs, heads>& h, const Softmax& softmax, const Lane& lane) {
    bool finite = true;
#pragma unroll
    for (int j = 0; j < heads; ++j) finite = all_finite(h.sum[j]) && finite;
    if (!finite) return false;
    const PixelRows rows(a, tile, lane);
    const int x = tile.x + lane.pixel % kSide, y = tile.y + lane.pixel / kSide;
    if (x < a.W && y < a.H && lane.second < heads)
        softmax.store(a, pixel_index(a, tile.b, tile.v, tile.head + lane.second, x, y));
    const float inverse = softmax.total == 0 ? 0.f : 1 / softmax.total;
#pragma unroll
    for (int j = 0; j < heads; ++j)
        write_out<Element>(a, tile, tile.head + j, rows, h.sum[j], inverse, j * kRows, lane);
    return true;
}

template <typename Element, int R, int packs, int heads>
__global__ void __launch_bounds__(kThreads, packs > (R == 5 ? 5 : 8) ? 1
                                            : R == 5                 ? kBlocksPerMultiprocessor
                                                                     : 2)
    mma_kernel(const __grid_constant__ PackedAlignArguments a, const Sharing sharing) {
    Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared());
    const Lane lane;
    const int warp = threadIdx.x / 32;
    Heads<packs, heads> h;
    {
        WarpTile tile = tile_of<heads>(a, sharing, warp / sharing.groups, warp % sharing.groups);
        if (tile.head < a.heads && tile.x < a.W && tile.y < a.H)
            load_queries<Element>(h, a, tile, lane);
        else
            tile.head = -1;  // nothing to do, except looking for others
        if (lane.index == 0) shared.tiles[warp] = tile;
    }
    Softmax softmax;
    const int most = kOutlooks / sharing.tiles;  // slots at a time
    for (int begin = 0; begin < a.N; begin += most) {
        const int slots = a.N - begin < most ? static_cast<int>(a.N) - begin : most;
        __syncthreads();  // everyone is through with the outlooks before
        for (int i = warp; i < slots * sharing.tiles; i += kWarps) {
            const WarpTile from = tile_of<heads>(a, sharing, i % sharing.tiles, 0);
            look<R>(shared.outlooks[i], a, from.b, from.v, begin + i / sharing.tiles, from.x, from.y);
        }
        __syncthreads();
#pragma unroll 1
        for (int i = 0; i < slots; ++i) {
            const Outlook& o = shared.outlooks[i * sharing.tiles + shared.tiles[warp].place];
            const int head = shared.tiles[warp].head;
            if (head < 0 || o.count == 0) continue;
            if (!o.fits) {
                h.sum[0][0][0] = __builtin_nanf("");  // which sends the warp's pixels to the fallback
                continue;
            }
            if constexpr (heads == 1) {
                go_through<Element, R, 1, 0>(h, softmax, shared.strips[warp], o, a, head, begin + i, lane);
            } else if (o.count <= kPairBox) {
                go_through<Element, R, 2, 0>(h, softmax, shared.strips[warp], o, a, head, begin + i, lane);
            } else {
                go_through<Element, R, 1, 0>(h, softmax, shared.strips[warp], o, a, head, begin + i, lane);
                go_through<Element, R, 1, 1>(h, softmax, shared.strips[warp], o, a, head, begin + i, lane);
            }
        }
    }
    __syncwarp();  // without a slot there was no barrier
    const WarpTile tile = shared.tiles[warp];
    if (tile.head < 0) return;
    if (!write_results<Element>(a, tile, h, softmax, lane))
        forward_fallback<Element, R, kFallbackLanes<packs>, heads>(a, tile.b, tile.v, tile.head, tile.x, tile.y);
}

template <typename Element, int R, int packs, int heads>
void launch_mma(const PackedAlignArguments& a, cudaStream_t stream) {
    const Sharing sharing(a, heads);
    launch(mma_kernel<Element, R, packs, heads>, grid_of(a.B * a.V * sharing.blocks * sharing.shares), dim3(kThreads),
           sizeof(Shared), stream, a, sharing);
}

template <typename Element, int packs>
void launch_mma(const PackedAlignArguments& a, cudaStream_t stream) {
    constexpr int heads = packs <= 5 ? 2 : 1;
    if (a.window == 5)
        launch_mma<Element, 5, packs, 1>(a, stream);
    else if (a.heads >= heads)
        launch_mma<Element, 3, packs, heads>(a, stream);
    else
        launch_mma<Element, 3, packs, 1>(a, stream);
}

template <typename Element>
bool launch_mma_of_head(const PackedAlignArguments& a, cudaStream_t stream) {
    switch (a.key_packs) {
        case 2:
            return launch_mma<Element, 2>(a, stream), true;
        case 4:
            return launch_mma<Element, 4>(a, stream), true;
        case 5:
            return launch_mma<Element, 5>(a, stream), true;
        case 8:
            return launch_mma<Element, 8>(a, stream), true;
        case 10:
            return launch_mma<Element, 10>(a, stream), true;
        case 20:
            return launch_mma<Element, 20>(a, stream), true;
        default:
            return false;
    }
}

// Whether offsets within a box, in bytes, fit 32 bits without a sign.
bool has_near_pixels(const Image& t) {
    constexpr std::int64_t most = 1 << 23;
    return t.y >= 0 && t.y < most && t.x >= 0 && t.x < most;
}

}  // namespace
}  // namespace homography_align

bool homography_align_forward_mma(const PackedAlignArguments& a, cudaStream_t stream) {
    using namespace homography_align;
    const bool fits = a.key_packs == a.value_packs && (a.window == 3 || a.window == 5);
    if (!fits || !has_near_pixels(a.key) || !has_near_pixels(a.value)) return false;
    if (a.dtype == Scalar::bfloat16) return launch_mma_of_head<bfloat16>(a, stream);
    return a.dtype == Scalar::float16 && launch_mma_of_head<float16>(a, stream);
}

}  // namespace cuda
}  // namespace vsad
