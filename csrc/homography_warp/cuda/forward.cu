#include "homography_warp/cuda/kernels.h"
#include "homography_warp/cuda/tile.h"

namespace vsad {
namespace cuda {
namespace {

// Packs of channels whose taps are loaded together, so that several loads are in flight before the first is used.
template <int n, int vector>
constexpr int kAhead = n == 4       ? 1
                       : vector > 1 ? 2
                                    : 4;

// Offsets of a pixel's taps.
template <int n>
struct TapOffsets {
    std::int64_t at[n][n];

    __device__ __forceinline__ TapOffsets(const ImageView& image, const Taps<float, n>& taps) {
        std::int64_t across[n];
#pragma unroll
        for (int i = 0; i < n; ++i) across[i] = taps.x.index[i] * image.x;
#pragma unroll
        for (int j = 0; j < n; ++j) {
            const std::int64_t down = taps.y.index[j] * image.y;
#pragma unroll
            for (int i = 0; i < n; ++i) at[j][i] = down + across[i];
        }
    }
};

// The value at the pixel of one pack of channels.
template <typename Element, int n, int vector>
__device__ __forceinline__ void interpolate(float (&sum)[vector], const Pack<Element, vector> (&tap)[n][n],
                                            const Taps<float, n>& taps) {
#pragma unroll
    for (int k = 0; k < vector; ++k) sum[k] = 0;
#pragma unroll
    for (int j = 0; j < n; ++j) {
        float row[vector] = {};
#pragma unroll
        for (int i = 0; i < n; ++i) {
            float wide[vector];
            widen_pack(tap[j][i], wide);
#pragma unroll
            for (int k = 0; k < vector; ++k) row[k] += taps.x.weight[i] * wide[k];
        }
#pragma unroll
        for (int k = 0; k < vector; ++k) sum[k] += taps.y.weight[j] * row[k];
    }
}

template <typename Element, int n, int vector>
__device__ __forceinline__ void warp_pixel(const WarpArguments& a, const Element* from, Element* to,
                                           const Channels& channels, const Taps<float, n>& taps) {
    constexpr int ahead = kAhead<n, vector>;
    const std::int64_t input_channel = vector > 1 ? 1 : a.input.channel, out_channel = vector > 1 ? 1 : a.out.channel;
    const TapOffsets<n> offsets(a.input, taps);
    for (int first = channels.begin; first < channels.end; first += ahead * channels.step) {
        Pack<Element, vector> tap[ahead][n][n];
#pragma unroll
        for (int u = 0; u < ahead; ++u) {
            const int c = first + u * channels.step;
            if (c >= channels.end) break;
#pragma unroll
            for (int j = 0; j < n; ++j)
#pragma unroll
                for (int i = 0; i < n; ++i)
                    tap[u][j][i] =
                        *reinterpret_cast<const Pack<Element, vector>*>(from + offsets.at[j][i] + c * input_channel);
        }
#pragma unroll
        for (int u = 0; u < ahead; ++u) {
            const int c = first + u * channels.step;
            if (c >= channels.end) break;
            float sum[vector];
            interpolate(sum, tap[u], taps);
            store_pack<vector>(to + c * out_channel, sum);
        }
    }
}

template <typename Element, int n, int vector>
__global__ void __launch_bounds__(kThreads, n == 4 || vector == 16 ? 1 : 3)
    forward_kernel(const __grid_constant__ WarpArguments a, const __grid_constant__ Tiling tiling) {
    for_each_layer(a, tiling, [&](const Layer& layer) {
        for (int tile = blockIdx.y; tile < tiling.tiles_y; tile += gridDim.y) {
            const Place place(a, tiling, blockIdx.x, tile);
            if (!place.exists) continue;
            const Taps<float, n> taps = locate<n>(a, Source<float>(a, layer.b), place.x, place.y);
            if (place.lane == 0 && layer.share == 0) a.mask[(layer.b * a.H + place.y) * a.W + place.x] = taps.valid;
            const Element* from = reinterpret_cast<const Element*>(a.input.data) + layer.b * a.input.batch;
            Element* to =
                reinterpret_cast<Element*>(a.out.data) + layer.b * a.out.batch + place.y * a.out.y + place.x * a.out.x;
            const Channels channels(a, tiling, place, layer.share, vector);
            if (taps.alive) {
                warp_pixel<Element, n, vector>(a, from, to, channels, taps);
                continue;
            }
            const float nothing[vector] = {};
            for (int c = channels.begin; c < channels.end; c += channels.step)
                store_pack<vector>(to + c * (vector > 1 ? 1 : a.out.channel), nothing);
        }
    });
}

template <typename Element>
struct Forward {
    template <int n, int vector>
    static void run(const WarpArguments& a, const Tiling& tiling, cudaStream_t stream) {
        launch(forward_kernel<Element, n, vector>, tiling.grid(a, tiling.tiles_x, tiling.tiles_y), dim3(kThreads), 0,
               stream, a, tiling);
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
