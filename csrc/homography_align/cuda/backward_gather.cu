// Gradients of key and value without atomics, bit-identical on every run. A block owns a tile of 8 x 8 source pixels,
// one head and one slice of its channels. It goes through all target tiles whose windows touch its own, always in the
// same order, finds their weights again and adds up in registers what its pixels receive. The boxes that the backward
// left tell which target tiles these are: many where H minifies, few where it magnifies.
//
// Launch table: as in backward.cu.
#include "homography_align/cuda/differentiate.h"
#include "homography_align/cuda/touched_tiles.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

template <typename Element, int R>
struct Shared {
    Weights<R> weights;
    Staged<Element> staged;
};

static_assert(BackwardTile::kWidth == BackwardTile::kHeight, "as TileGrid has them");
constexpr int kTileSide = BackwardTile::kWidth;

// The block's tile of source pixels.
struct SourceTile {
    int b, source, head, begin, left, top;

    __device__ __forceinline__ SourceBox box() const { return {left, top, left + kTileSide - 1, top + kTileSide - 1}; }
    template <int R>
    __device__ __forceinline__ bool meets(const Window<R>& w) const {
        return w.has_valid_cell && meet({w.left, w.top, w.left + R, w.top + R}, box());
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

template <typename Element, int R>
__global__ void __launch_bounds__(kThreads, 1)
    gather_kernel(const __grid_constant__ AlignBackwardArguments g, const __grid_constant__ CallBoxes boxes,
                  const TileGrid sources, int slices) {
    const PackedAlignArguments& a = g.forward;
    const Block block(slices, a.heads, sources.tiles());
    const int S = static_cast<int>(a.S), pixel = threadIdx.x / kLanes;
    const SourceTile own = {block.view / S,
                            block.view % S,
                            block.head,
                            block.slice * kSlicePacks<Element, kLanes>,
                            block.tile % sources.across * kTileSide,
                            block.tile / sources.across * kTileSide};
    Shared<Element, R>& s = *reinterpret_cast<Shared<Element, R>*>(dynamic_shared());
    Sums<Element, kLanes> key(own.begin, g.key ? a.key_packs : 0), value(own.begin, g.value ? a.value_packs : 0);

    // All warps find the same tiles, in the same order, and so work on them together.
    for_each_slot(a, own.source, [&](int v, int slot) {
        for_each_touching_tile(boxes, (own.b * a.V + v) * a.N + slot, own.box(), [&](const TilePlace& tile) {
            gather_tile(g, own, v, slot, tile.x * kTileSide, tile.y * kTileSide, s, key, value);
        });
    });

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

std::int64_t homography_align_boxes(std::int64_t H, std::int64_t W) {
    return homography_align::boxes_of_slot(H, W, homography_align::kTileSide);
}

void homography_align_gather(const AlignBackwardArguments& g, cudaStream_t stream) {
    using namespace homography_align;
    const PackedAlignArguments& a = g.forward;
    const CallBoxes boxes(a, g.boxes, kTileSide);
    const TileGrid sources = tile_grid(a.Hs, a.Ws, kTileSide);
    homography_align_group_boxes(a, g.boxes, kTileSide, stream);
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        const int shares = slices<Element, kLanes>(a.key_packs > a.value_packs ? a.key_packs : a.value_packs);
        with_window(a.window, [&](auto R) {
            launch(gather_kernel<Element, R>, grid_of(a.B * a.S * sources.tiles() * a.heads * shares), dim3(kThreads),
                   sizeof(Shared<Element, R>), stream, g, boxes, sources, shares);
        });
    });
}

}  // namespace cuda
}  // namespace vsad
