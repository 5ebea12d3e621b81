// A block takes a tile of target pixels, one head and a slice of its channels, and goes through all slots.
#include "cuda/homography_align.h"

#include "cuda/homography_align_attend.h"

namespace vsad {
namespace cuda {
namespace {

template <typename Element, int R, int kLanes>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ AlignArguments a, int tiles, int tiles_across, int slices) {
    // heads fastest: neighbouring heads of a pixel share sectors
    const int slice = blockIdx.x % slices, head = blockIdx.x / slices % a.heads;
    const int tile = blockIdx.x / slices / a.heads % tiles;
    const int view = blockIdx.x / slices / a.heads / tiles, V = static_cast<int>(a.V), b = view / V, v = view % V;
    const int x = tile % tiles_across * Tile<kLanes>::kWidth + Tile<kLanes>::x(threadIdx.x / kLanes);
    const int y = tile / tiles_across * Tile<kLanes>::kHeight + Tile<kLanes>::y(threadIdx.x / kLanes);
    attend<Element, R, kLanes>(a, b, v, head, slice * kSlicePacks<Element, kLanes>, x, y);
}

template <typename Element, int kLanes>
void forward(const AlignArguments& a, cudaStream_t stream) {
    const std::int64_t tiles = Tile<kLanes>::count(a.H, a.W);
    const int shares = slices<Element, kLanes>(a.value_packs);
    const dim3 grid(blocks(a.B * a.V * tiles * a.heads * shares));
    with_window(a.window, [&](auto R) {
        launch(forward_kernel<Element, R, kLanes>, grid, dim3(kThreads), 0, stream, a, static_cast<int>(tiles),
               static_cast<int>(Tile<kLanes>::across(a.W)), shares);
    });
}

}  // namespace

void homography_align_forward(const AlignArguments& a, cudaStream_t stream) {
    if (homography_align_forward_mma(a, stream)) return;
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        const int packs = a.key_packs > a.value_packs ? a.key_packs : a.value_packs;
        if (packs <= kSlicePacks<Element, 4>)
            forward<Element, 4>(a, stream);
        else
            forward<Element, 16>(a, stream);
    });
}

}  // namespace cuda
}  // namespace vsad
