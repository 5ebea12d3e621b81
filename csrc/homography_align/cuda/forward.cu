// A block takes a tile of target pixels, one head and a slice of its channels, and goes through all slots.
//
// Launch table. Where homography_align_mma.cu does not serve, by the packs of 16 bytes of a head:
//     up to 4 x 2 (half types: 64 channels) or 4 x 3 (float: 48)    4 lanes a pixel, tiles of 8 x 8
//     more                                                         16 lanes a pixel, tiles of 4 x 4
// and beyond 256 or 192 channels a slice for each so many, which finds all weights anew.
//
// Arithmetic, for B = 8, V = 5, N = 4, 64 x 64, R = 3, 8 heads of 40 channels: 655,360 pixels and slots, 16 taps each.
// Counted, not measured, for an H200: 132 multiprocessors at 1.7 GHz that each start 4 instructions of a warp a clock
// and read 128 bytes of L1. Memory: query, key, value and out once, float32 839 MB, 195 us at 4.3 TB/s. L1: 16 taps x 2
// tensors x 3 loads of 16 bytes a lane, for the 8 pixels of a warp some 6 wavefronts each, 576: 1.7 ms, and it binds.
// Instructions: about 384 multiply-adds, 96 loads and 300 others a warp, 0.6 ms. So float32 is expected at 8 to 9 times
// the time of its memory, some 2/3 of it spent waiting for L1.
#include "homography_align/cuda/kernels.h"

#include "homography_align/cuda/attend.h"

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
