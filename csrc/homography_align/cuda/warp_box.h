// What the tensor core kernels share: 4 x 4 target pixels of a warp, the box of source pixels that their windows touch,
// and whether sums need the fallback.
#pragma once
#include "homography_align/cuda/window.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kSide = 4, kRows = kSide * kSide;  // the pixels of a warp are the rows of its products

// The smallest rectangle that holds the taps of a warp's windows.
struct WarpBox {
    int left, top, width, height;

    template <int R>
    __device__ __forceinline__ explicit WarpBox(const Window<R>& w) {
        constexpr int far = 0x3fffffff;  // far outside every image, and the difference of two fits an int
        left = __reduce_min_sync(kWarp, w.has_valid_cell ? w.left + w.cells.col_begin : far);
        top = __reduce_min_sync(kWarp, w.has_valid_cell ? w.top + w.cells.row_begin : far);
        width = __reduce_max_sync(kWarp, w.has_valid_cell ? w.left + w.cells.col_end : -far) - left + 1;
        height = __reduce_max_sync(kWarp, w.has_valid_cell ? w.top + w.cells.row_end : -far) - top + 1;
    }
    // Sides are compared first: the area may overflow.
    __device__ __forceinline__ bool fits(int most) const {
        return width <= most && height <= most && width * height <= most;
    }
    // Products take 16 source pixels at a time.
    __device__ __forceinline__ int steps() const { return (width * height + 15) / 16; }
};

// Whether the sums of all lanes are finite: zero times infinity somewhere in a box is NaN.
template <int packs>
__device__ __forceinline__ bool all_finite(const float (&sum)[packs][4]) {
    bool finite = true;
#pragma unroll
    for (int i = 0; i < packs; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) finite = finite && sum[i][j] - sum[i][j] == 0;
    return __all_sync(kWarp, finite);
}

}  // namespace
}  // namespace homography_align
}  // namespace cuda
}  // namespace vsad
