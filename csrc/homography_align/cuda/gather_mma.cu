// Gradients of key and value of float16 / bfloat16 on tensor cores, without atomics and bit-identical on every run. A
// warp owns 8 x 8 source pixels of one head, in the gradient of key or of value. It goes through all tiles of target
// pixels whose windows touch its own, always in the same order, lays the weights that backward_mma.cu left for their
// taps out over its pixels, zero where no tap lies, and multiplies them with the tile's query or grad_out; the sums
// stay in registers. Where one is not finite (zero times infinity is NaN), the warp adds its pixels up again with
// ordinary instructions.
//
// Launch table: 4 warps per block, which take the gradients and heads of one source tile, so that they share the test
// of boxes and the sectors of pixels; 4 blocks per multiprocessor with 2 packs per head, 3 up to 5, else 2.
#include "homography_align/cuda/backward_warp.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kSourceSide = 8, kSourcePixels = kSourceSide * kSourceSide;
constexpr int kGatherWarps = 4, kGatherThreads = 32 * kGatherWarps;
constexpr int kBands = kSourcePixels / 16;  // products take 16 source pixels, which are two of the tile's rows

struct Shared {
    // The weights of one target tile's pixels at the source tile's. The padding lets ldmatrix read different banks.
    std::uint16_t weights[kGatherWarps][kRows][kSourcePixels + 8];
    unsigned hits[kGatherWarps];  // one bit for each of the kGatherThreads target tiles that are tested at once
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

// A pixel of a target tile. Those beyond the border weigh nothing; those at the border are read in their place.
struct Place {
    int x, y;

    __device__ __forceinline__ Place(const AlignArguments& a, int tile, int tiles_across, int pixel) {
        const int last_x = static_cast<int>(a.W) - 1, last_y = static_cast<int>(a.H) - 1;
        x = tile % tiles_across * kSide + pixel % kSide;
        y = tile / tiles_across * kSide + pixel / kSide;
        x = x < last_x ? x : last_x;
        y = y < last_y ? y : last_y;
    }
};

// The operand of the products at a pixel of target view v: query for key, grad_out for value.
template <typename Element, int packs>
__device__ __forceinline__ const Element* operand_at(const AlignMmaBackwardArguments& g, const GatherTile& own, int v,
                                                     int x, int y) {
    return pixel_at<Element>(own.part ? g.grad_out : g.forward.query, own.b, v, x, y,
                             own.head * packs * kPack<Element>);
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
        const auto piece =
            *reinterpret_cast<const Pack<Element, n>*>(taps + (2 * lane.pixel + lane.second) * kHalfTaps<R> + first);
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

// Adds what the source tile receives from target tile `tile`, whose box, corners, taps and view of the operand these
// are.
template <typename Element, int R, int packs>
__device__ __forceinline__ void gather_tile(float (&sum)[kBands][packs][4], const AlignMmaBackwardArguments& g,
                                            const GatherTile& own, int tile, const SourceBox& box,
                                            const Corner* corners, const Element* taps, const Element* operand,
                                            std::uint16_t (&weights)[kRows][kSourcePixels + 8], const Lane& lane) {
    const Image& image = own.part ? g.grad_out : g.forward.query;
    const int step_x = static_cast<int>(image.x) * static_cast<int>(sizeof(Element));
    const int step_y = static_cast<int>(image.y) * static_cast<int>(sizeof(Element));
    const Place first(g.forward, tile, own.tiles_across, 2 * lane.quad);
    const Place last(g.forward, tile, own.tiles_across, 2 * lane.quad + 9);
    const Element* const from[4] = {
        moved(operand, first.y * step_y + first.x * step_x), moved(operand, first.y * step_y + last.x * step_x),
        moved(operand, last.y * step_y + first.x * step_x), moved(operand, last.y * step_y + last.x * step_x)};
    unsigned columns[packs][2];
    load_columns<Element>(columns, from);
    put_weights<Element, R>(weights, own, taps, corners, lane);
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
// 2 lane, 2 lane + 1, and 64 further on. Not inlined, so that its registers do not count for the kernel; takes integers
// because a struct would be passed on the stack.
template <typename Element, int R, int packs>
__device__ __noinline__ void gather_fallback(const AlignMmaBackwardArguments& g, int b, int source, int left, int top,
                                             int head, int part_of, int tiles, int tiles_across, Element* to) {
    const PackedAlignArguments& a = g.forward;
    const GatherTile own = {b, source, left, top, head, part_of, tiles, tiles_across};
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
                    const Place place(a, tile, tiles_across, pixel);
                    const Element* from = operand_at<Element, packs>(g, own, v, place.x, place.y);
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
    const int view = own.b * static_cast<int>(a.V) + v;
    const std::int64_t edge = (view * a.N + slot) * own.tiles;
    const SourceBox* boxes = g.boxes + edge;
    const Corner* corners = g.corners + edge * kRows;
    const Element* taps =
        static_cast<const Element*>(g.taps) + tap_index<R>(a, view, slot, own.tiles, 0, own.head, own.part);
    const int taps_of_tile = a.heads * 2 * kRows * 2 * kHalfTaps<R>;
    const Element* operand = operand_at<Element, packs>(g, own, v, 0, 0);
    for (int first = 0; first < own.tiles; first += kGatherThreads) {
        const int tested = first + static_cast<int>(threadIdx.x);
        const bool hit = tested < own.tiles && own.meets(boxes[tested]);
        const unsigned hits = __ballot_sync(kWarp, hit);
        if (lane.index == 0) s.hits[threadIdx.x / 32] = hits;
        if (!__syncthreads_or(hit)) continue;
        for (int group = 0; works && group < kGatherWarps; ++group)
            for (unsigned bits = s.hits[group]; bits; bits &= bits - 1) {
                const int tile = first + 32 * group + __ffs(static_cast<int>(bits)) - 1;
                gather_tile<Element, R>(
                    sum, g, own, tile, boxes[tile], corners + static_cast<std::int64_t>(tile) * kRows,
                    taps + static_cast<std::int64_t>(tile) * taps_of_tile, operand, s.weights[threadIdx.x / 32], lane);
            }
        __syncthreads();  // everyone has read the hits, which the next round overwrites
    }
}

template <typename Element, int R, int packs>
__global__ void __launch_bounds__(kGatherThreads, packs <= 2   ? 4
                                                  : packs <= 5 ? 3
                                                               : 2)
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
    if (!finite)
        return gather_fallback<Element, R, packs>(g, own.b, own.source, own.left, own.top, own.head, own.part,
                                                  own.tiles, own.tiles_across, to);
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
        launch(gather_mma_kernel<decltype(element), R, packs>, grid, dim3(kGatherThreads), sizeof(Shared), stream, g,
               static_cast<int>(homography_align_mma_tiles(a.H, a.W)), static_cast<int>(mma_tiles_across(a.W)),
               static_cast<int>(source_tiles), static_cast<int>(across));
    });
}

}  // namespace cuda
}  // namespace vsad
