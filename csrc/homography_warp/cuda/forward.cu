// A block finds the taps of all pixels of its tile first, a pixel a thread, and leaves them in shared memory. Then
// groups of lanes go through the pixels, 128 bytes of channels at a time: the taps that neighboring pixels have in
// common are still in L1 when the next row needs them. Planes need no shared memory: their threads keep their own taps.
#include "homography_warp/cuda/kernels.h"
#include "homography_warp/cuda/tile.h"

namespace vsad {
namespace cuda {
namespace {

// The taps of a pixel. Offsets count elements, or packs of elements, of which 32 bits are always enough. Of four taps
// along an axis, offsets and weights are kept by axis; of fewer, combined.
template <int n, int vector>
struct alignas(n > 1 ? 16 : 8) Pixel {
    using Offset = std::conditional_t<(vector > 1), std::int32_t, std::int64_t>;
    static constexpr bool kCombined = n <= 2;
    static constexpr int kKept = kCombined ? n * n : 2 * n;

    Offset offsets[kKept];
    float weights[kKept];  // NaN comes first where the pixel is not alive

    Pixel() = default;
    __device__ __forceinline__ Pixel(const WarpArguments& a, const Taps<float, n>& taps) {
        const Offset step_y = static_cast<Offset>(a.input.y / vector), step_x = static_cast<Offset>(a.input.x / vector);
#pragma unroll
        for (int k = 0; k < kKept; ++k) {
            const int j = kCombined ? k / n : k % n, i = k % n;
            const Offset row = taps.y.index[j] * step_y, column = taps.x.index[i] * step_x;
            const float y = taps.y.weight[j], x = taps.x.weight[i];
            offsets[k] = kCombined ? row + column : k < n ? row : column;
            weights[k] = kCombined ? y * x : k < n ? y : x;
        }
        if (!taps.alive) weights[0] = __int_as_float(0x7fffffff);
    }

    __device__ __forceinline__ bool alive() const { return weights[0] == weights[0]; }
    __device__ __forceinline__ Offset offset(int j, int i) const {
        return kCombined ? offsets[j * n + i] : offsets[j] + offsets[n + i];
    }
    __device__ __forceinline__ float weight(int j, int i) const {
        return kCombined ? weights[j * n + i] : weights[j] * weights[n + i];
    }
};

// The sum over the taps of one pack of channels.
template <typename Element, int n, int vector>
__device__ __forceinline__ void interpolate(const Pixel<n, vector>& pixel, const Element* __restrict__ from,
                                            Element* __restrict__ to) {
    using Elements = Pack<Element, vector>;
    float sum[vector] = {};
    if (pixel.alive()) {
        Elements taps[n * n];
#pragma unroll
        for (int k = 0; k < n * n; ++k) taps[k] = reinterpret_cast<const Elements*>(from)[pixel.offset(k / n, k % n)];
#pragma unroll
        for (int k = 0; k < n * n; ++k) {
            const float weight = pixel.weight(k / n, k % n);
            float tap[vector];
            widen_pack(taps[k], tap);
#pragma unroll
            for (int e = 0; e < vector; ++e) sum[e] += weight * tap[e];
        }
    }
    store_pack<vector>(to, sum);
}

template <typename Element, int n, int vector>
__global__ void __launch_bounds__(kThreads, n > 2        ? 2
                                            : vector > 1 ? 4
                                                         : 3)
    forward_kernel(const __grid_constant__ WarpArguments a, const __grid_constant__ Tiling tiling) {
    const unsigned b = tiling.by_blocks.divide(blockIdx.x);
    const Corner corner(tiling, blockIdx.x - b * tiling.by_blocks.divisor);
    const int thread = static_cast<int>(threadIdx.x);
    const int x = corner.x + thread % kRowWidth, y = corner.y + thread / kRowWidth;
    const Taps<float, n> taps = locate<n>(a, b, x, y);
    const bool exists = x < a.W && y < a.H;
    if (exists && blockIdx.y == 0 && a.mask) a.mask[(b * a.H + y) * a.W + x] = taps.valid;

    const Element* from = reinterpret_cast<const Element*>(a.input.data) + b * a.input.batch;
    Element* to = reinterpret_cast<Element*>(a.out.data) + b * a.out.batch;
    const Pixel<n, vector> own(a, taps);
    const Share share(a, tiling);
    if (vector == 1 && tiling.lane_bits == 0) {
        if (!exists) return;
        to += y * a.out.y + x * a.out.x;
#pragma unroll(n > 2 ? 1 : 4)
        for (std::int64_t c = share.begin; c < share.end; ++c)
            interpolate<Element, n, vector>(own, from + c * a.input.channel, to + c * a.out.channel);
        return;
    }
    __shared__ Pixel<n, vector> pixels[kThreads];
    pixels[thread] = own;
    __syncthreads();
    // At most 8 lanes share a pixel: all threads together take whole rows of the tile.
    const int first = thread >> tiling.lane_bits, lane = thread & (tiling.lanes() - 1);
    const int column = corner.x + first % kRowWidth;
    if (column >= a.W) return;
    const int step = kThreads >> tiling.lane_bits;
    const int end = a.H - corner.y < tiling.height ? static_cast<int>(a.H - corner.y) * kRowWidth : kThreads;
    const std::int64_t step_out = step / kRowWidth * a.out.y;
    to += (corner.y + first / kRowWidth) * a.out.y + column * a.out.x;
    for (std::int64_t c = share.begin + lane * vector; c < share.end; c += tiling.lanes() * vector) {
        Element* at = to + c;
#pragma unroll(n > 2 ? 1 : 2)
        for (int k = first; k < end; k += step, at += step_out)
            interpolate<Element, n, vector>(pixels[k], from + c, at);
    }
}

template <typename Element>
struct Forward {
    template <int n, int vector>
    static void run(const WarpArguments& a, const Tiling& tiling, cudaStream_t stream) {
        launch(forward_kernel<Element, n, vector>, tiling.grid(a), dim3(kThreads), 0, stream, a, tiling);
    }
};

template <typename Element>
void run(const WarpArguments& a, cudaStream_t stream) {
    const Tiling tiling = tile<Element>(a, {&a.input, &a.out}, 8, kRowWidth, 1, true);
    choose<Forward<Element>, Element>(a, tiling, stream);
}

}  // namespace

void homography_warp_forward(const WarpArguments& a, cudaStream_t stream) {
    if (a.dtype == Scalar::uint8) return run<std::uint8_t>(a, stream);
    with_float_type(a.dtype, [&](auto element) { run<decltype(element)>(a, stream); });
}

}  // namespace cuda
}  // namespace vsad
