// The forward with ordinary instructions. A block takes a tile of target pixels, one head and one slice of its value
// channels, and goes through all slots.
//
// Launch table, by the packs of a head:
//     at most 8 (float16 / bfloat16: 64 channels) or 12 (float32: 48)    4 lanes per pixel, tiles of 8 x 8
//     more                                                             16 lanes per pixel, tiles of 4 x 4
// A lane keeps 2 or 3 packs in registers, so beyond 256 or 192 channels there are several slices, each of which finds
// all weights anew.
#include "homography_align/cuda/forward_pixel.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

template <typename Element, int R, int kLanes>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ PackedAlignArguments a, int tiles, int tiles_across, int slices) {
    const Block block(slices, a.heads, tiles);
    const int V = static_cast<int>(a.V), b = block.view / V, v = block.view % V;
    const int x = block.tile % tiles_across * Tile<kLanes>::kWidth + Tile<kLanes>::x(threadIdx.x / kLanes);
    const int y = block.tile / tiles_across * Tile<kLanes>::kHeight + Tile<kLanes>::y(threadIdx.x / kLanes);
    forward_pixel<Element, R, kLanes>(a, b, v, block.head, block.slice * kSlicePacks<Element, kLanes>, x, y);
}

template <typename Element, int kLanes>
void launch_forward(const PackedAlignArguments& a, cudaStream_t stream) {
    const std::int64_t tiles = Tile<kLanes>::count(a.H, a.W);
    const int shares = slices<Element, kLanes>(a.value_packs);
    with_window(a.window, [&](auto R) {
        launch(forward_kernel<Element, R, kLanes>, grid_of(a.B * a.V * tiles * a.heads * shares), dim3(kThreads), 0,
               stream, a, static_cast<int>(tiles), static_cast<int>(Tile<kLanes>::across(a.W)), shares);
    });
}

}  // namespace
}  // namespace homography_align

void homography_align_forward(const PackedAlignArguments& a, cudaStream_t stream) {
    using namespace homography_align;
    if (homography_align_forward_mma(a, stream)) return;
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        const int packs = a.key_packs > a.value_packs ? a.key_packs : a.value_packs;
        if (packs <= kSlicePacks<Element, 4>)
            launch_forward<Element, 4>(a, stream);
        else
            launch_forward<Element, kWideLanes>(a, stream);
    });
}

}  // namespace cuda
}  // namespace vsad
