// A block owns a tile of 8 x 8 source pixels, one head and a slice of its channels. It goes through all target tiles
// whose windows touch it, always in the same order, finds their weights again, and adds up what its pixels get in
// registers: no atomics, and the same bits on every run. Where H minifies many target tiles touch a source tile, where
// it magnifies few, and the boxes that the backward left tell which.
//
// Launch table as in homography_align_backward.cu.
//
// Arithmetic, counted and not measured, for the same shape in bfloat16: at a scale near one a source tile meets 5
// target tiles, of whose warps half have windows that touch it: 21 warps that find weights (1,540 instructions), and 5
// x 64 pixels that 8 warps look at, of which 35 add: 66,000 instructions a tile, head and slot beside the 27,000 of the
// backward's: 8.5 ms in all, half as much again as with atomics.
#include "homography_align/cuda/differentiate.h"
#include "homography_align/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace {

template <typename Element, int R>
struct Shared {
    Weights<R> weights;
    Staged<Element> staged;
    unsigned hits[kThreads / 32];  // one bit for each of the tiles that are looked at together
};

template <typename Element, int R>
__global__ void __launch_bounds__(kThreads, 1)
    gather_kernel(const __grid_constant__ AlignGradients g, int source_tiles, int source_across, int target_tiles,
                  int target_across, int slices) {
    const AlignArguments& a = g.forward;
    const int slice = blockIdx.x % slices, head = blockIdx.x / slices % a.heads;
    const int tile = blockIdx.x / slices / a.heads % source_tiles, view = blockIdx.x / slices / a.heads / source_tiles;
    const int S = static_cast<int>(a.S), b = view / S, source = view % S, pixel = threadIdx.x / kLanes;
    const int left = tile % source_across * BackwardTile::kWidth, right = left + BackwardTile::kWidth - 1;
    const int top = tile / source_across * BackwardTile::kHeight, bottom = top + BackwardTile::kHeight - 1;
    const int x = left + BackwardTile::x(pixel), y = top + BackwardTile::y(pixel);
    const int key_channels = a.key_packs * kPack<Element>, value_channels = a.value_packs * kPack<Element>;
    const int begin = slice * kSlicePacks<Element, kLanes>;
    Shared<Element, R>& s = *reinterpret_cast<Shared<Element, R>*>(dynamic_shared());
    Sums<Element, kLanes> key(begin, g.key ? a.key_packs : 0), value(begin, g.value ? a.value_packs : 0);

    const int edges = static_cast<int>(a.V * a.N);
    for (int edge = 0; edge < edges; ++edge) {
        const int v = edge / static_cast<int>(a.N), slot = edge % static_cast<int>(a.N);
        if (source_of(a, v, slot) != source) continue;
        const AlignBox* boxes = g.boxes + (static_cast<std::int64_t>(b) * edges + edge) * target_tiles;
        for (int first = 0; first < target_tiles; first += kThreads) {
            bool hit = false;
            if (first + static_cast<int>(threadIdx.x) < target_tiles) {
                const AlignBox box = boxes[first + threadIdx.x];
                hit = box.left <= right && box.right >= left && box.top <= bottom && box.bottom >= top;
            }
            const unsigned hits = __ballot_sync(kWarp, hit);
            if (threadIdx.x % 32 == 0) s.hits[threadIdx.x / 32] = hits;
            if (!__syncthreads_or(hit)) continue;
            for (int group = 0; group < kThreads / 32; ++group)
                for (unsigned bits = s.hits[group]; bits; bits &= bits - 1) {
                    const int target_tile = first + 32 * group + __ffs(static_cast<int>(bits)) - 1;
                    const int tile_x = target_tile % target_across * BackwardTile::kWidth;
                    const int tile_y = target_tile / target_across * BackwardTile::kHeight;
                    const int target_x = tile_x + BackwardTile::x(pixel), target_y = tile_y + BackwardTile::y(pixel);
                    const Window<R> w(a, homography_of(a, b, v, slot), target_x, target_y,
                                      target_x < a.W && target_y < a.H);
                    const bool meets =
                        w.useful && w.left <= right && w.left + R >= left && w.top <= bottom && w.top + R >= top;
                    s.weights.put_corner(pixel, w, meets);
                    if (__any_sync(kWarp, meets)) {
                        const Target<Element> target(g, s.staged, begin, b, v, head, target_x, target_y);
                        const Taps<Element, R> keys(a.key, b, source, head * key_channels, a, w);
                        const Taps<Element, R> values(a.value, b, source, head * value_channels, a, w);
                        const float inner = target.exists ? g.inner[number_at(a, b, v, head, target_x, target_y)] : 0.f;
                        differentiate(g, target, slot, keys, values, w, inner, s.staged, s.weights,
                                      [](int, int, float, float, float, float, float) {});
                    }
                    __syncthreads();
                    collect(key, value, s.weights, s.staged, x, y);
                    __syncthreads();
                }
            __syncthreads();
        }
    }
    if (x >= a.Ws || y >= a.Hs) return;
    if (g.key)
        key.store(reinterpret_cast<Element*>(g.key) + dense_at(view, a.Hs, a.Ws, y, x, head, a.heads, key_channels), 1);
    if (g.value)
        value.store(
            reinterpret_cast<Element*>(g.value) + dense_at(view, a.Hs, a.Ws, y, x, head, a.heads, value_channels), 1);
}

}  // namespace

void homography_align_gather(const AlignGradients& g, cudaStream_t stream) {
    const AlignArguments& a = g.forward;
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        const std::int64_t tiles = BackwardTile::count(a.Hs, a.Ws);
        const int shares = slices<Element, kLanes>(a.key_packs > a.value_packs ? a.key_packs : a.value_packs);
        with_window(a.window, [&](auto R) {
            launch(gather_kernel<Element, R>, dim3(blocks(a.B * a.S * tiles * a.heads * shares)), dim3(kThreads),
                   sizeof(Shared<Element, R>), stream, g, static_cast<int>(tiles),
                   static_cast<int>(BackwardTile::across(a.Ws)), static_cast<int>(BackwardTile::count(a.H, a.W)),
                   static_cast<int>(BackwardTile::across(a.W)), shares);
        });
    });
}

}  // namespace cuda
}  // namespace vsad
