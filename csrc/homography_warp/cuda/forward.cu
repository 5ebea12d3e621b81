#include "homography_warp/cuda/kernels.h"

#include "homography_warp/cuda/tile.h"

namespace vsad {
namespace cuda {
namespace {

template <typename Element, int n, int vector>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ WarpArguments a, const Tiling tiling) {
    const Place place(a, tiling, blockIdx.x);
    if (!place.exists) return;
    const Taps<float, n> taps = locate<n>(a, place.b, place.x, place.y);
    if (place.lane == 0 && blockIdx.y == 0) a.mask[(place.b * a.H + place.y) * a.W + place.x] = taps.valid;

    const std::int64_t input_channel = vector > 1 ? 1 : a.input.channel, out_channel = vector > 1 ? 1 : a.out.channel;
    const Element* from = reinterpret_cast<const Element*>(a.input.data) + place.b * a.input.batch;
    Element* to =
        reinterpret_cast<Element*>(a.out.data) + place.b * a.out.batch + place.y * a.out.y + place.x * a.out.x;
    const Channels channels(a, tiling, place, vector);
    if (!taps.alive) {
        const float nothing[vector] = {};
        for (std::int64_t c = channels.begin; c < channels.end; c += channels.step)
            store_pack<vector>(to + c * out_channel, nothing);
        return;
    }
    std::int64_t at[n][n];
#pragma unroll
    for (int j = 0; j < n; ++j)
#pragma unroll
        for (int i = 0; i < n; ++i) at[j][i] = taps.y.index[j] * a.input.y + taps.x.index[i] * a.input.x;
    for (std::int64_t c = channels.begin; c < channels.end; c += channels.step) {
        float sum[vector] = {};
#pragma unroll
        for (int j = 0; j < n; ++j) {
            float row[vector] = {};
#pragma unroll
            for (int i = 0; i < n; ++i) {
                float tap[vector];
                load_pack(from + at[j][i] + c * input_channel, tap);
#pragma unroll
                for (int k = 0; k < vector; ++k) row[k] += taps.x.weight[i] * tap[k];
            }
#pragma unroll
            for (int k = 0; k < vector; ++k) sum[k] += taps.y.weight[j] * row[k];
        }
        store_pack<vector>(to + c * out_channel, sum);
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
    choose<Forward<Element>, Element>(a, tile<Element>(a, {&a.input, &a.out}), stream);
}

}  // namespace

void homography_warp_forward(const WarpArguments& a, cudaStream_t stream) {
    if (a.dtype == Scalar::uint8) return run<std::uint8_t>(a, stream);
    with_float_type(a.dtype, [&](auto element) { run<decltype(element)>(a, stream); });
}

}  // namespace cuda
}  // namespace vsad
