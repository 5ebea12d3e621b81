// Gradients of key and value of float16 / bfloat16 on tensor cores, without atomics and bit-identical on every run. A
// warp owns 8 x 8 source pixels of one head, in the gradient of key or of value. It goes through all tiles of target
// pixels whose windows touch its own, always in the same order, lays the weights that backward_mma.cu left for their
// taps out over its pixels, zero where no tap lies, and multiplies them with the tile's query or grad_out; the sums
// stay in registers. Where one is not finite (zero times infinity is NaN), the warp adds its pixels up again with
// ordinary instructions.
//
// Launch table: 4 warps per block, which take the gradients and heads of one source tile, so that they share boxes and
// the sectors of pixels; 4 blocks per multiprocessor with 2 packs per head, 3 up to 5, else 2.
#include "homography_align/cuda/backward_warp.h"
#include "homography_align/cuda/touched_tiles.h"

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
};

// What a warp works on.
struct GatherTile {
    int b, source, left, top;  // the source tile
    int head, part;            // part: 0 for key, 1 for value

    __device__ __forceinline__ SourceBox box() const {
        return {left, top, left + kSourceSide - 1, top + kSourceSide - 1};
    }
    __device__ __forceinline__ bool meets_band(const SourceBox& box, int band) const {
        return box.top <= top + 2 * band + 1 && box.bottom >= top + 2 * band;
    }
};

// A pixel of a target tile. Those beyond the border weigh nothing; those at the border are read in their place.
struct Place {
    int x, y;

    __device__ __forceinline__ Place(const AlignArguments& a, const TilePlace& tile, int pixel) {
        const int last_x = static_cast<int>(a.W) - 1, last_y = static_cast<int>(a.H) - 1;
        x = tile.x * kSide + pixel % kSide;
        y = tile.y * kSide + pixel / kSide;
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

// Adds what the source tile receives from a target tile, whose box, corners, taps and view of the operand these are.
template <typename Element, int R, int packs>
__device__ __forceinline__ void gather_tile(float (&sum)[kBands][packs][4], const AlignMmaBackwardArguments& g,
                                            const GatherTile& own, const TilePlace& tile, const SourceBox& box,
                                            const Corner* corners, const Element* taps, const Element* operand,
                                            std::uint16_t (&weights)[kRows][kSourcePixels + 8], const Lane& lane) {
    const Image& image = own.part ? g.grad_out : g.forward.query;
    const int step_x = static_cast<int>(image.x) * static_cast<int>(sizeof(Element));
    const int step_y = static_cast<int>(image.y) * static_cast<int>(sizeof(Element));
    const Place first(g.forward, tile, 2 * lane.quad), last(g.forward, tile, 2 * lane.quad + 9);
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
                                             int head, int part_of, const CallBoxes& boxes, Element* to) {
    const PackedAlignArguments& a = g.forward;
    const GatherTile own = {b, source, left, top, head, part_of};
    const int lane = threadIdx.x % 32;
    constexpr int kChannels = packs * kPack<Element>;
#pragma unroll 1
    for (int i = 0; i < kSourcePixels; ++i) {
        const int x = own.left + i % kSourceSide, y = own.top + i / kSourceSide;
        if (x >= a.Ws || y >= a.Hs) continue;
        float sum[(packs + 7) / 8][2] = {};
        for_each_slot(a, own.source, [&](int v, int slot) {
            const int view = own.b * static_cast<int>(a.V) + v;
            const std::int64_t edge = view * a.N + slot;
            for_each_touching_tile(boxes, edge, {x, y, x, y}, [&](const TilePlace& tile) {
                const int tiles = boxes.grid.tiles(), at = boxes.grid.index(tile);
                const Element* taps =
                    static_cast<const Element*>(g.taps) + tap_index<R>(a, view, slot, tiles, at, own.head, own.part);
#pragma unroll 1
                for (int pixel = 0; pixel < kRows; ++pixel) {
                    const Corner corner = g.corners[(edge * tiles + at) * kRows + pixel];
                    const unsigned column = x - corner.left, row = y - corner.top;
                    if (column > R || row > R) continue;
                    const float weight = widen(taps[(pixel * (R + 1) + row) * (R + 1) + column]);
                    const Place place(a, tile, pixel);
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
            });
        });
        Element* row = to + dense_index(own.b * a.S + own.source, a.Hs, a.Ws, y, x, own.head, a.heads, kChannels);
#pragma unroll
        for (int part = 0; part < (packs + 7) / 8; ++part)
            if (2 * lane + 64 * part < kChannels) store_pack<2>(row + 2 * lane + 64 * part, sum[part]);
    }
}

// Adds what the source tile receives from one slot of target view v.
template <typename Element, int R, int packs>
__device__ __forceinline__ void gather_slot(float (&sum)[kBands][packs][4], const AlignMmaBackwardArguments& g,
                                            const GatherTile& own, const CallBoxes& boxes, int v, int slot, Shared& s,
                                            const Lane& lane) {
    const PackedAlignArguments& a = g.forward;
    const int view = own.b * static_cast<int>(a.V) + v;
    const std::int64_t edge = view * a.N + slot;
    const int tiles = boxes.grid.tiles();
    const Corner* corners = g.corners + edge * tiles * kRows;
    const Element* taps =
        static_cast<const Element*>(g.taps) + tap_index<R>(a, view, slot, tiles, 0, own.head, own.part);
    const int taps_of_tile = a.heads * 2 * kRows * 2 * kHalfTaps<R>;
    const Element* operand = operand_at<Element, packs>(g, own, v, 0, 0);
    for_each_touching_tile(boxes, edge, own.box(), [&](const TilePlace& tile) {
        const std::int64_t at = boxes.grid.index(tile);
        gather_tile<Element, R>(sum, g, own, tile, boxes.tile(edge, at), corners + at * kRows, taps + at * taps_of_tile,
                                operand, s.weights[threadIdx.x / 32], lane);
    });
}

template <typename Element, int R, int packs>
__global__ void __launch_bounds__(kGatherThreads, packs <= 2   ? 4
                                                  : packs <= 5 ? 3
                                                               : 2)
    gather_mma_kernel(const __grid_constant__ AlignMmaBackwardArguments g, const __grid_constant__ CallBoxes boxes,
                      const TileGrid sources) {
    const PackedAlignArguments& a = g.forward;
    const bool both = g.key && g.value;
    const int items = both ? 2 * a.heads : a.heads, groups = (items + kGatherWarps - 1) / kGatherWarps;
    const int item = blockIdx.x % groups * kGatherWarps + threadIdx.x / 32;
    if (item >= items) return;
    const int place = blockIdx.x / groups % sources.tiles(), S = static_cast<int>(a.S);
    const int view = blockIdx.x / groups / sources.tiles();
    const GatherTile own = {view / S,
                            view % S,
                            place % sources.across * kSourceSide,
                            place / sources.across * kSourceSide,
                            both ? item / 2 : item,
                            both ? item % 2 : g.value != nullptr};
    const Lane lane;
    Shared& s = *reinterpret_cast<Shared*>(dynamic_shared());
    float sum[kBands][packs][4] = {};
    for_each_slot(a, own.source,
                  [&](int v, int slot) { gather_slot<Element, R>(sum, g, own, boxes, v, slot, s, lane); });

    Element* to = static_cast<Element*>(own.part ? g.value : g.key);
    bool finite = true;
#pragma unroll
    for (int band = 0; band < kBands; ++band) finite = all_finite(sum[band]) && finite;
    if (!finite)
        return gather_fallback<Element, R, packs>(g, own.b, own.source, own.left, own.top, own.head, own.part, boxes,
                                                  to);
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

std::int64_t homography_align_mma_boxes(std::int64_t H, std::int64_t W) {
    return homography_align::boxes_of_slot(H, W, homography_align::kSide);
}

void homography_align_gather_mma(const AlignMmaBackwardArguments& g, cudaStream_t stream) {
    using namespace homography_align;
    const PackedAlignArguments& a = g.forward;
    if (!g.key && !g.value) return;
    const CallBoxes boxes(a, g.boxes, kSide);
    const TileGrid sources = tile_grid(a.Hs, a.Ws, kSourceSide);
    homography_align_group_boxes(a, g.boxes, kSide, stream);
    const int items = g.key && g.value ? 2 * a.heads : a.heads, groups = (items + kGatherWarps - 1) / kGatherWarps;
    const dim3 grid = grid_of(a.B * a.S * sources.tiles() * groups);
    with_mma_kernel(a, [&](auto element, auto R, auto packs) {
        launch(gather_mma_kernel<decltype(element), R, packs>, grid, dim3(kGatherThreads), sizeof(Shared), stream, g,
               boxes, sources);
    });
}

}  // namespace cuda
}  // namespace vsad
