// Gradients of key and value without atomics, bit-identical on every run. A block owns a tile of 8 x 8 source pixels,
// one head and one slice of its channels. It goes through all target tiles whose windows touch its own, always in the
// same order, finds their weights again and adds up in registers what its pixels receive. The boxes that the backward
// left tell which target tiles these are: many where H minifies, few where it magnifies.
//
// Launch table: as in backward.cu.
#include "homography_align/cuda/differentiate.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

template <typename Element, int R>
struct Shared {
    Weights<R> weights;
    Staged<Element> staged;
    unsigned hits[kThreads / 32];  // one bit for each of the kThreads target tiles that are tested at once
};

// The sizes of both grids of tiles.
struct TileCounts {
    int source, source_across, target, target_across;
};

// The block's tile of source pixels.
struct SourceTile {
    int b, source, head, begin, left, top;

    __device__ __forceinline__ int right() const { return left + BackwardTile::kWidth - 1; }
    __device__ __forceinline__ int bottom() const { return top + BackwardTile::kHeight - 1; }
    __device__ __forceinline__ bool meets(const SourceBox& box) const {
        return box.left <= right() && box.right >= left && box.top <= bottom() && box.bottom >= top;
    }
    template <int R>
    __device__ __forceinline__ bool meets(const Window<R>& w) const {
        return w.has_valid_cell && w.left <= right() && w.left + R >= left && w.top <= bottom() && w.top + R >= top;
    }
};

// Adds what the source tile's pixels receive from one target tile in one slot. The whole block calls this together.
template <typename Element, int R>
__device__ __forceinline__ void gather_tile(const AlignBackwardArguments& g, const SourceTile& own, int v, int slot,
                                            int target_left, int target_top, Shared<Element, R>& s,
                                            Sums<Element, kLanes>& key, Sums<Element, kLanes>& value) {
    const PackedAlignArguments& a = g.forward;
    const int pixel = threadIdx.x / kLanes;
    const int target_x = target_left + BackwardTile::x(pixel), target_y = target_top + BackwardTile::y(pixel);
    const Window<R> w(a, homography_of(a, own.b, v, slot), target_x, target_y, target_x < a.W && target_y < a.H);
    const bool meets = own.meets(w);
    s.weights.put_corner(pixel, w, meets);
    if (__any_sync(kWarp, meets)) {
        Target<Element> target(g, s.staged, own.begin, own.b, v, own.head, target_x, target_y);
        target.load_softmax(a);
        const Taps<Element, R> keys(a.key, own.b, own.source, target.query.channel, a, w);
        const Taps<Element, R> values(a.value, own.b, own.source, target.grad_out.channel, a, w);
        const float inner = target.exists ? g.inner[pixel_index(a, own.b, v, own.head, target_x, target_y)] : 0.f;
        differentiate(a, target, slot, keys, values, w, inner, s.staged, s.weights,
                      [](int, int, float, float, float) {});
    }
    __syncthreads();
    collect(key, value, s.weights, s.staged, own.left + BackwardTile::x(pixel), own.top + BackwardTile::y(pixel));
    __syncthreads();
}

// Adds what the source tile's pixels receive from one slot of target view v, target tile after target tile.
template <typename Element, int R>
__device__ __forceinline__ void gather_slot(const AlignBackwardArguments& g, const SourceTile& own, int v, int slot,
                                            const TileCounts& tiles, Shared<Element, R>& s, Sums<Element, kLanes>& key,
                                            Sums<Element, kLanes>& value) {
    const PackedAlignArguments& a = g.forward;
    const SourceBox* boxes = g.boxes + ((own.b * a.V + v) * a.N + slot) * tiles.target;
    for (int first = 0; first < tiles.target; first += kThreads) {
        const int tested = first + static_cast<int>(threadIdx.x);
        const bool hit = tested < tiles.target && own.meets(boxes[tested]);
        const unsigned hits = __ballot_sync(kWarp, hit);
        if (threadIdx.x % 32 == 0) s.hits[threadIdx.x / 32] = hits;
        if (!__syncthreads_or(hit)) continue;
        for (int group = 0; group < kThreads / 32; ++group)
            for (unsigned bits = s.hits[group]; bits; bits &= bits - 1) {
                const int target_tile = first + 32 * group + __ffs(static_cast<int>(bits)) - 1;
                gather_tile(g, own, v, slot, target_tile % tiles.target_across * BackwardTile::kWidth,
                            target_tile / tiles.target_across * BackwardTile::kHeight, s, key, value);
            }
        __syncthreads();  // everyone has read the hits, which the next round overwrites
    }
}

template <typename Element, int R>
__global__ void __launch_bounds__(kThreads, 1)
    gather_kernel(const __grid_constant__ AlignBackwardArguments g, const TileCounts tiles, int slices) {
    const PackedAlignArguments& a = g.forward;
    const Block block(slices, a.heads, tiles.source);
    const int S = static_cast<int>(a.S), pixel = threadIdx.x / kLanes;
    const SourceTile own = {block.view / S,
                            block.view % S,
                            block.head,
                            block.slice * kSlicePacks<Element, kLanes>,
                            block.tile % tiles.source_across * BackwardTile::kWidth,
                            block.tile / tiles.source_across * BackwardTile::kHeight};
    Shared<Element, R>& s = *reinterpret_cast<Shared<Element, R>*>(dynamic_shared());
    Sums<Element, kLanes> key(own.begin, g.key ? a.key_packs : 0), value(own.begin, g.value ? a.value_packs : 0);

    const int N = static_cast<int>(a.N), edges = static_cast<int>(a.V) * N;
    for (int edge = 0; edge < edges; ++edge)
        if (source_of(a, edge / N, edge % N) == own.source)
            gather_slot(g, own, edge / N, edge % N, tiles, s, key, value);

    const int x = own.left + BackwardTile::x(pixel), y = own.top + BackwardTile::y(pixel);
    if (x >= a.Ws || y >= a.Hs) return;
    const auto row_of = [&](void* gradient, int packs) {
        return static_cast<Element*>(gradient) +
               dense_index(block.view, a.Hs, a.Ws, y, x, own.head, a.heads, packs * kPack<Element>);
    };
    if (g.key) key.store(row_of(g.key, a.key_packs), 1);
    if (g.value) value.store(row_of(g.value, a.value_packs), 1);
}

}  // namespace
}  // namespace homography_align

void homography_align_gather(const AlignBackwardArguments& g, cudaStream_t stream) {
    using namespace homography_align;
    const PackedAlignArguments& a = g.forward;
    const TileCounts tiles = {
        static_cast<int>(BackwardTile::count(a.Hs, a.Ws)), static_cast<int>(BackwardTile::across(a.Ws)),
        static_cast<int>(BackwardTile::count(a.H, a.W)), static_cast<int>(BackwardTile::across(a.W))};
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        const int shares = slices<Element, kLanes>(a.key_packs > a.value_packs ? a.key_packs : a.value_packs);
        with_window(a.window, [&](auto R) {
            launch(gather_kernel<Element, R>, grid_of(a.B * a.S * tiles.source * a.heads * shares), dim3(kThreads),
                   sizeof(Shared<Element, R>), stream, g, tiles, shares);
        });
    });
}

}  // namespace cuda
}  // namespace vsad
