// A block goes through kTilesPerBlock tiles of one batch, so that its share of dH is reduced once.
#include "cuda/ptx.h"
#include "homography_warp/cuda/kernels.h"
#include "homography_warp/cuda/tile.h"

namespace vsad {
namespace cuda {
namespace {

using Whole = unsigned long long;  // a 64-bit number in two's complement: its sum is the same in any order

template <int vector>
__device__ __forceinline__ void add(float* to, float weight, const float (&g)[vector]) {
    if constexpr (vector % 4 == 0) {
#pragma unroll
        for (int k = 0; k < vector; k += 4)
            red_add(to + k, make_float4(weight * g[k], weight * g[k + 1], weight * g[k + 2], weight * g[k + 3]));
    } else {
        red_add(to, weight * g[0]);
    }
}
template <int vector>
__device__ __forceinline__ void add(Whole* to, double scale, float weight, const float (&g)[vector]) {
#pragma unroll
    for (int k = 0; k < vector; ++k)
        atomicAdd(to + k, static_cast<Whole>(__double2ll_rn(scale * (static_cast<double>(weight) * g[k]))));
}

// The nine sums of a block, in the same order on every run.
__device__ __forceinline__ void reduce(const float (&dH)[9], double* to) {
    __shared__ double sums[9][kThreads / 32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 9; ++i) {
        const double sum = warp_sum(static_cast<double>(dH[i]));
        if (lane == 0) sums[i][warp] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 9) {
        double total = 0;
        for (int i = 0; i < kThreads / 32; ++i) total += sums[threadIdx.x][i];
        to[threadIdx.x] = total;
    }
}

template <typename Element, int n, int vector>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ WarpGradients g, const Tiling tiling) {
    const WarpArguments& a = g.forward;
    const std::int64_t tiles = tiling.tiles_x * tiling.tiles_y;
    const std::int64_t blocks = (tiles + kTilesPerBlock - 1) / kTilesPerBlock;
    const std::int64_t b = blockIdx.x / blocks, first = blockIdx.x % blocks * kTilesPerBlock;
    const std::int64_t input_channel = vector > 1 ? 1 : a.input.channel, out_channel = vector > 1 ? 1 : a.out.channel;
    const std::int64_t to_channel = vector > 1 ? 1 : g.input.channel;
    const Element* from = reinterpret_cast<const Element*>(a.input.data) + b * a.input.batch;
    const double scale = g.scale ? *g.scale : 0;
    float dH[9] = {};

    for (std::int64_t tile = first; tile < first + kTilesPerBlock && tile < tiles; ++tile) {
        const Place place(a, tiling, b * tiles + tile);
        if (!place.exists) continue;
        const Spot<n> spot = locate<n>(a, b, place.x, place.y);
        if (!spot.alive) continue;
        const Element* grad =
            reinterpret_cast<const Element*>(a.out.data) + b * a.out.batch + place.y * a.out.y + place.x * a.out.x;
        const Channels channels(a, tiling, place, vector);
        float gx = 0, gy = 0;
        for (std::int64_t c = channels.begin; c < channels.end; c += channels.step) {
            float v[vector];
            load_pack(grad + c * out_channel, v);
#pragma unroll
            for (int j = 0; j < n; ++j)
#pragma unroll
                for (int i = 0; i < n; ++i) {
                    if (n > 1 && g.homography) {
                        float tap[vector], dot = 0;
                        load_pack(from + spot.y.at[j] * a.input.y + spot.x.at[i] * a.input.x + c * input_channel, tap);
#pragma unroll
                        for (int k = 0; k < vector; ++k) dot += v[k] * tap[k];
                        gx += spot.y.weight[j] * spot.x.slope[i] * dot;
                        gy += spot.y.slope[j] * spot.x.weight[i] * dot;
                    }
                    if (g.input.data) {
                        const std::int64_t at =
                            b * g.input.batch + spot.y.at[j] * g.input.y + spot.x.at[i] * g.input.x + c * to_channel;
                        const float weight = spot.y.weight[j] * spot.x.weight[i];
                        if (g.scale)
                            add(reinterpret_cast<Whole*>(g.input.data) + at, scale, weight, v);
                        else
                            add(reinterpret_cast<float*>(g.input.data) + at, weight, v);
                    }
                }
        }
        const float dX = gx / spot.Z, dY = gy / spot.Z, dZ = -(dX * spot.sx + dY * spot.sy);
        const float column[3] = {dX, dY, dZ};
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            dH[3 * i] += column[i] * static_cast<float>(place.x);
            dH[3 * i + 1] += column[i] * static_cast<float>(place.y);
            dH[3 * i + 2] += column[i];
        }
    }
    if (g.homography) reduce(dH, g.homography + (blockIdx.x * tiling.shares + blockIdx.y) * 9);
}

template <typename Element>
struct Backward {
    template <int n, int vector>
    static void run(const WarpArguments&, const Tiling& tiling, const WarpGradients* g, cudaStream_t stream) {
        launch(backward_kernel<Element, n, vector>, tiling.grid(g->forward, kTilesPerBlock), dim3(kThreads), 0, stream,
               *g, tiling);
    }
};

// Where the gradient is scattered, in floats or whole numbers, vectors of four must be aligned too.
template <typename Element>
Tiling tile_gradients(const WarpGradients& g) {
    const WarpArguments& a = g.forward;
    if (!g.input.data) return tile<Element>(a, {&a.input, &a.out});
    Tiling t = tile<Element>(a, {&a.input, &a.out, &g.input});
    t.packed = t.packed && aligned(g.input, 4, 4);
    return t;
}

}  // namespace

std::int64_t homography_warp_parts(const WarpGradients& g) {
    std::int64_t parts = 0;
    with_float_type(g.forward.dtype, [&](auto element) {
        const Tiling t = tile_gradients<decltype(element)>(g);
        parts = (t.tiles_x * t.tiles_y + kTilesPerBlock - 1) / kTilesPerBlock * t.shares;
    });
    return parts;
}

void homography_warp_backward(const WarpGradients& g, cudaStream_t stream) {
    with_float_type(g.forward.dtype, [&](auto element) {
        using Element = decltype(element);
        choose<Backward<Element>, Element>(g.forward.mode, g.forward, tile_gradients<Element>(g), &g, stream);
    });
}

}  // namespace cuda
}  // namespace vsad
