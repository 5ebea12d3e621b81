// Gradients of key and value of float16 / bfloat16 on tensor cores, without atomics and bit-identical on every run. A
// warp owns 8 x 8 source pixels of one head, in the gradient of key or of value. It goes through all tiles of target
// pixels whose windows touch its own, always in the same order, lays the weights that backward_mma.cu left for their
// taps out over its pixels, zero where no tap lies, and multiplies them with the tile's query or grad_out; the sums
// stay in registers. Where one is not finite (zero times infinity is NaN), the warp adds its pixels up again with
// ordinary instructions.
//
// Launch table: 8 warps per block, which take the gradients and heads of one source tile, so that they share the test
// of boxes and the sectors of pixels; 2 blocks per multiprocessor up to 5 packs per head, else 1.
#include "homography_align/cuda/backward_warp.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kSourceSide = 8, kSourcePixels = kSourceSide * kSourceSide, kGatherWarps = kThreads / 32;
constexpr int kBands = kSourcePixels / 16;  // products take 16 source pixels, which are two of the tile's rows

struct Shared {
    // The weights of one target tile's pixels at the source tile's. The padding lets ldmatrix read different banks.
    std::uint16_t weights[kGatherWarps][kRows][kSourcePixels + 8];
    unsigned hits[kGatherWarps];  // one bit for each of the kThreads target tiles that are tested at once
};

// What a warp works on.
struct GatherTile {
    int b, source, left, top;  // the source tile
    int head, part;            // part: 0 for key, 1 for value
    int tiles, tiles_across;   // of target pixels

    __device__ __forceinline__ bool meets(const SourceBox& box) const {
        return box.left < left + kSourceSide && box.right >= left && box.top < top + kSourceSide && box.bottom >= top;
    }
    __device__ __forceinline__ bool meets_band(const SourceBox& box, int band) const {
        return box.top <= top + 2 * band + 1 && box.bottom >= top + 2 * band;
    }
};

// The operand of the products with a target tile: query for key, grad_out for value.
template <typename Element, int packs>
__device__ __forceinline__ const Element* target_row(const AlignMmaBackwardArguments& g, const GatherTile& own, int v,
                                                     int tile, int pixel) {
    const PackedAlignArguments& a = g.forward;
    // Pixels beyond the border weigh nothing; those at the border are read in their place.
    const int x = tile % own.tiles_across * kSide + pixel % kSide, last_x = static_cast<int>(a.W) - 1;
    const int y = tile / own.tiles_across * kSide + pixel / kSide, last_y = static_cast<int>(a.H) - 1;
    return pixel_at<Element>(own.part ? g.grad_out : a.query, own.b, v, x < last_x ? x : last_x,
                             y < last_y ? y : last_y, own.head * packs * kPack<Element>);
}

// Lays out the weights of a target tile's taps. Begins and ends with the warp in step.
template <typename Element, int R>
__device__ __forceinline__ void put_weights(std::uint16_t (&to)[kRows][kSourcePixels + 8], const GatherTile& own,
                                            const Element* taps, const Corner* corners, const Lane& lane) {
    const Corner corner = corners[lane.pixel];
    Element weights[kHalfTaps<R>];
    constexpr int n = kTapPiece<R>;
#pragma unroll
    for (int first = 0; first < kHalfTaps<R>; first += n) {
        const auto piece = *reinterpret_cast<const Pack<Element, n>*>(
            taps + (2 * lane.pixel + lane.second) * kHalfTaps<R> + first);
#pragma unroll
        for (int i = 0; i < n; ++i) weights[first + i] = piece.value[i];
    }
    __syncwarp();  // everyone has read the weights of the tile before
#pragma unroll
    for (int i = 0; i < kRows * kSourcePixels / 8 / 32; ++i) {
        const int at = lane.index + 32 * i;
        *reinterpret_cast<uint4*>(&to[at / 8][at % 8 * 8]) = make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
    const int x = corner.left - own.left, y = corner.top + lane.second * kHalf<R> - own.top;
    Element* row = reinterpret_cast<Element*>(to[lane.pixel]) + y * kSourceSide + x;
#pragma unroll
    for (int i = 0; i < kHalfTaps<R>; ++i) {
        const int column = i % (R + 1), line = i / (R + 1);
        if (static_cast<unsigned>(x + column) < kSourceSide && static_cast<unsigned>(y + line) < kSourceSide)
            row[line * kSourceSide + column] = weights[i];
    }
    __syncwarp();
}

// The rows of 16 target pixels, four of which this lane loads, as the second factor of products: a piece of n packs
// makes n products, and lane 4 g + j holds channels n g to n g + n - 1 of the pixels 2 j, 2 j + 1, 2 j + 8 and
// 2 j + 9.
template <typename Element, int packs>
__device__ __forceinline__ void load_columns(unsigned (&to)[packs][2], const Element* const (&from)[4]) {
    const int group = threadIdx.x % 32 / 4;
    for_each_piece<packs, 8>([&](auto first, auto n) {
        if constexpr (n == 1) {
            unsigned channel[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                channel[i] = __ldg(reinterpret_cast<const unsigned short*>(from[i] + 8 * first + group));
            to[first][0] = lower_halves(channel[0], channel[1]);
            to[first][1] = lower_halves(channel[2], channel[3]);
        } else {
            Words<n / 2> words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) words[i] = load_words<n / 2>(from[i] + 8 * first + n * group);
#pragma unroll
            for (int i = 0; i < n / 2; ++i) {
                const unsigned a = words[0].word[i], b = words[1].word[i], c = words[2].word[i], d = words[3].word[i];
                to[first + 2 * i][0] = lower_halves(a, b);
                to[first + 2 * i][1] = lower_halves(c, d);
                to[first + 2 * i + 1][0] = upper_halves(a, b);
                to[first + 2 * i + 1][1] = upper_halves(c, d);
            }
        }
    });
}

// Adds what the source tile receives from one target tile in one slot.
template <typename Element, int R, int packs>
__device__ __forceinline__ void gather_tile(float (&sum)[kBands][packs][4], const AlignMmaBackwardArguments& g,
                                            const GatherTile& own, int v, int slot, int tile, Shared& s,
                                            const Lane& lane) {
    const PackedAlignArguments& a = g.forward;
    auto& weights = s.weights[threadIdx.x / 32];
    const int view = own.b * static_cast<int>(a.V) + v;
    const std::int64_t at = (view * a.N + slot) * own.tiles + tile;
    const Element* taps = static_cast<const Element*>(g.taps) +
                          tap_index<R>(a, view, slot, own.tiles, tile, own.head, own.part);
    const Element* const from[4] = {target_row<Element, packs>(g, own, v, tile, 2 * lane.quad),
                                    target_row<Element, packs>(g, own, v, tile, 2 * lane.quad + 1),
                                    target_row<Element, packs>(g, own, v, tile, 2 * lane.quad + 8),
                                    target_row<Element, packs>(g, own, v, tile, 2 * lane.quad + 9)};
    unsigned columns[packs][2];
    load_columns<Element>(columns, from);
    const SourceBox box = g.boxes[at];
    put_weights<Element, R>(weights, own, taps, g.corners + at * kRows, lane);
#pragma unroll
    for (int band = 0; band < kBands; ++band) {
        if (!own.meets_band(box, band)) continue;
        unsigned rows[4];
        ldmatrix_transposed(rows, &weights[lane.index % 8 + lane.index / 16 * 8][16 * band + lane.index / 8 % 2 * 8]);
#pragma unroll
        for (int i = 0; i < packs; ++i) mma(sum[band][i], rows, columns[i][0], columns[i][1], Element{});
    }
}

// The source tile again, pixel by pixel: what a pixel's own taps carry and nothing else. The lane adds channels
// 2 lane, 2 lane + 1, and 64 further on. Not inlined, so that its registers do not count for the kernel.
template <typename Element, int R, int packs>
__device__ __noinline__ void gather_fallback(const AlignMmaBackwardArguments& g, const GatherTile& own, Element* to) {
    const PackedAlignArguments& a = g.forward;
    const int lane = threadIdx.x % 32, N = static_cast<int>(a.N), V = static_cast<int>(a.V);
    constexpr int kChannels = packs * kPack<Element>;
#pragma unroll 1
    for (int i = 0; i < kSourcePixels; ++i) {
        const int x = own.left + i % kSourceSide, y = own.top + i / kSourceSide;
        if (x >= a.Ws || y >= a.Hs) continue;
        float sum[(packs + 7) / 8][2] = {};
#pragma unroll 1
        for (int edge = 0; edge < V * N; ++edge) {
            if (source_of(a, edge / N, edge % N) != own.source) continue;
            const int v = edge / N, slot = edge % N, view = own.b * V + v;
            const std::int64_t first = (view * a.N + slot) * own.tiles;
#pragma unroll 1
            for (int tile = 0; tile < own.tiles; ++tile) {
                const SourceBox box = g.boxes[first + tile];
                if (box.left > x || box.right < x || box.top > y || box.bottom < y) continue;
                const Element* taps = static_cast<const Element*>(g.taps) +
                                      tap_index<R>(a, view, slot, own.tiles, tile, own.head, own.part);
#pragma unroll 1
                for (int pixel = 0; pixel < kRows; ++pixel) {
                    const Corner corner = g.corners[(first + tile) * kRows + pixel];
                    const unsigned column = x - corner.left, row = y - corner.top;
                    if (column > R || row > R) continue;
                    const float weight = widen(taps[(pixel * (R + 1) + row) * (R + 1) + column]);
                    const Element* from = target_row<Element, packs>(g, own, v, tile, pixel);
#pragma unroll
                    for (int part = 0; part < (packs + 7) / 8; ++part) {
                        const int channel = 2 * lane + 64 * part;
                        if (channel >= kChannels) break;
                        float pair[2];
                        load_pack<2>(from + channel, pair);
                        sum[part][0] += weight * pair[0];
                        sum[part][1] += weight * pair[1];
                    }
                }
            }
        }
        Element* row = to + dense_index(own.b * a.S + own.source, a.Hs, a.Ws, y, x, own.head, a.heads, kChannels);
#pragma unroll
        for (int part = 0; part < (packs + 7) / 8; ++part)
            if (2 * lane + 64 * part < kChannels) store_pack<2>(row + 2 * lane + 64 * part, sum[part]);
    }
}

// Adds what the source tile receives from one slot of target view v. The whole block calls this together; a warp
// without work only takes part in the tests.
template <typename Element, int R, int packs>
__device__ __forceinline__ void gather_slot(float (&sum)[kBands][packs][4], const AlignMmaBackwardArguments& g,
                                            const GatherTile& own, bool works, int v, int slot, Shared& s,
                                            const Lane& lane) {
    const PackedAlignArguments& a = g.forward;
    const SourceBox* boxes = g.boxes + ((own.b * a.V + v) * a.N + slot) * own.tiles;
    for (int first = 0; first < own.tiles; first += kThreads) {
        const int tested = first + static_cast<int>(threadIdx.x);
        const bool hit = tested < own.tiles && own.meets(boxes[tested]);
        const unsigned hits = __ballot_sync(kWarp, hit);
        if (lane.index == 0) s.hits[threadIdx.x / 32] = hits;
        if (!__syncthreads_or(hit)) continue;
        for (int group = 0; works && group < kGatherWarps; ++group)
            for (unsigned bits = s.hits[group]; bits; bits &= bits - 1)
                gather_tile<Element, R>(sum, g, own, v, slot, first + 32 * group + __ffs(static_cast<int>(bits)) - 1,
                                        s, lane);
        __syncthreads();  // everyone has read the hits, which the next round overwrites
    }
}

template <typename Element, int R, int packs>
__global__ void __launch_bounds__(kThreads, packs <= 5 ? 2 : 1)
    gather_mma_kernel(const __grid_constant__ AlignMmaBackwardArguments g, int tiles, int tiles_across,
                      int source_tiles, int source_across) {
    const PackedAlignArguments& a = g.forward;
    const bool both = g.key && g.value;
    const int items = both ? 2 * a.heads : a.heads, groups = (items + kGatherWarps - 1) / kGatherWarps;
    const int item = blockIdx.x % groups * kGatherWarps + threadIdx.x / 32;
    const int place = blockIdx.x / groups % source_tiles, S = static_cast<int>(a.S);
    const int view = blockIdx.x / groups / source_tiles;
    const GatherTile own = {view / S,
                            view % S,
                            place % source_across * kSourceSide,
                            place / source_across * kSourceSide,
                            both ? item / 2 : item,
                            both ? item % 2 : g.value != nullptr,
                            tiles,
                            tiles_across};
    const bool works = item < items;
    const Lane lane;
    Shared& s = *reinterpret_cast<Shared*>(dynamic_shared());
    float sum[kBands][packs][4] = {};
    const int N = static_cast<int>(a.N), edges = static_cast<int>(a.V) * N;
    for (int edge = 0; edge < edges; ++edge)
        if (source_of(a, edge / N, edge % N) == own.source)
            gather_slot<Element, R>(sum, g, own, works, edge / N, edge % N, s, lane);
    if (!works) return;

    Element* to = static_cast<Element*>(own.part ? g.value : g.key);
    bool finite = true;
#pragma unroll
    for (int band = 0; band < kBands; ++band) finite = all_finite(sum[band]) && finite;
    if (!finite) return gather_fallback<Element, R, packs>(g, own, to);
    const int x = own.left + lane.group;
    if (x >= a.Ws) return;
#pragma unroll
    for (int band = 0; band < kBands; ++band)
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            const int y = own.top + 2 * band + row;
            if (y < a.Hs)
                store_row<Element>(to + dense_index(view, a.Hs, a.Ws, y, x, own.head, a.heads, packs * kPack<Element>),
                                   sum[band], row, 1);
        }
}

}  // namespace
}  // namespace homography_align

void homography_align_gather_mma(const AlignMmaBackwardArguments& g, cudaStream_t stream) {
    using namespace homography_align;
    const PackedAlignArguments& a = g.forward;
    if (!g.key && !g.value) return;
    const std::int64_t across = (a.Ws + kSourceSide - 1) / kSourceSide;
    const std::int64_t source_tiles = across * ((a.Hs + kSourceSide - 1) / kSourceSide);
    const int items = g.key && g.value ? 2 * a.heads : a.heads, groups = (items + kGatherWarps - 1) / kGatherWarps;
    const dim3 grid = grid_of(a.B * a.S * source_tiles * groups);
    with_mma_kernel(a, [&](auto element, auto R, auto packs) {
        launch(gather_mma_kernel<decltype(element), R, packs>, grid, dim3(kThreads), sizeof(Shared), stream, g,
               static_cast<int>(homography_align_mma_tiles(a.H, a.W)), static_cast<int>(mma_tiles_across(a.W)),
               static_cast<int>(source_tiles), static_cast<int>(across));
    });
}

}  // namespace cuda
}  // namespace vsad
