// A block goes through kTilesPerBlock tiles of one batch, so that it reduces its part of the homography's gradient
// once.
#include "cuda/fixed_point.h"
#include "cuda/ptx.h"
#include "homography_warp/cuda/kernels.h"
#include "homography_warp/cuda/tile.h"

namespace vsad {
namespace cuda {
namespace {

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
__device__ __forceinline__ void add(FixedPoint* to, float weight, const float (&g)[vector], double scale) {
#pragma unroll
    for (int k = 0; k < vector; ++k) add_fixed_point(to + k, static_cast<double>(weight) * g[k], scale);
}

// The sums over a block, added in the same order on every run.
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

// The pixel of this thread in a tile.
struct Place {
    int x, y, lane;
    bool exists;

    __device__ __forceinline__ Place(const WarpArguments& a, const Tiling& t, unsigned tile) {
        const Corner corner(t, tile);
        const int pixel = static_cast<int>(threadIdx.x) >> t.lane_bits;
        lane = static_cast<int>(threadIdx.x) & (t.lanes() - 1);
        x = corner.x + (pixel & (t.width() - 1));
        y = corner.y + (pixel >> t.width_bits);
        exists = x < a.W && y < a.H;
    }
};

// Adds to dH, from the gradient (gx, gy) of the projected point.
template <int n>
__device__ __forceinline__ void add_moments(float (&dH)[9], const Place& place, const Taps<float, n>& taps, float gx,
                                            float gy) {
    const Projection<float> point{taps.sx, taps.sy, taps.Z};
    add_outer_product(dH, project_backward(point, gx, gy), static_cast<float>(place.x), static_cast<float>(place.y));
}

template <typename Element, int n, int vector>
struct Scatter {
    const WarpGradients& g;
    const Tiling& tiling;
    const std::int64_t b;
    const Element* source;  // the image of this batch
    const double scale;
    const std::int64_t source_channel, out_channel, to_channel;  // channel strides; 1 with packs

    __device__ __forceinline__ Scatter(const WarpGradients& g, const Tiling& tiling, std::int64_t b)
        : g(g),
          tiling(tiling),
          b(b),
          source(reinterpret_cast<const Element*>(g.forward.input.data) + b * g.forward.input.batch),
          scale(g.scale ? *g.scale : 0),
          source_channel(vector > 1 ? 1 : g.forward.input.channel),
          out_channel(vector > 1 ? 1 : g.forward.out.channel),
          to_channel(vector > 1 ? 1 : g.input.channel) {}

    // Adds the pixel's gradients to those of its taps and to dH.
    __device__ __forceinline__ void operator()(const Place& place, const Taps<float, n>& taps, float (&dH)[9]) const {
        const WarpArguments& a = g.forward;
        const Element* grad =
            reinterpret_cast<const Element*>(a.out.data) + b * a.out.batch + place.y * a.out.y + place.x * a.out.x;
        const Share share(a, tiling);
        float gx = 0, gy = 0;
        for (std::int64_t c = share.begin + place.lane * vector; c < share.end; c += tiling.lanes() * vector) {
            float v[vector];
            load_pack(grad + c * out_channel, v);
#pragma unroll
            for (int j = 0; j < n; ++j)
#pragma unroll
                for (int i = 0; i < n; ++i) {
                    if (n > 1 && g.homography) {
                        const float dot = dot_tap(taps.y.index[j], taps.x.index[i], c, v);
                        gx += taps.y.weight[j] * taps.x.slope[i] * dot;
                        gy += taps.y.slope[j] * taps.x.weight[i] * dot;
                    }
                    if (g.input.data)
                        add_to_tap(taps.y.index[j], taps.x.index[i], c, taps.y.weight[j] * taps.x.weight[i], v);
                }
        }
        add_moments(dH, place, taps, gx, gy);
    }

    __device__ __forceinline__ float dot_tap(int y, int x, std::int64_t c, const float (&v)[vector]) const {
        const ImageView& image = g.forward.input;
        float tap[vector], dot = 0;
        load_pack(source + y * image.y + x * image.x + c * source_channel, tap);
#pragma unroll
        for (int k = 0; k < vector; ++k) dot += v[k] * tap[k];
        return dot;
    }

    __device__ __forceinline__ void add_to_tap(int y, int x, std::int64_t c, float weight,
                                               const float (&v)[vector]) const {
        const std::int64_t at = b * g.input.batch + y * g.input.y + x * g.input.x + c * to_channel;
        if (g.scale)
            add(reinterpret_cast<FixedPoint*>(g.input.data) + at, weight, v, scale);
        else
            add(reinterpret_cast<float*>(g.input.data) + at, weight, v);
    }
};

template <typename Element, int n, int vector>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ WarpGradients g, const Tiling tiling) {
    const WarpArguments& a = g.forward;
    const unsigned tiles = static_cast<unsigned>(tiling.tiles_x * tiling.tiles_y);
    const unsigned b = tiling.by_blocks.divide(blockIdx.x);
    const unsigned first = (blockIdx.x - b * tiling.by_blocks.divisor) * kTilesPerBlock;
    const Scatter<Element, n, vector> scatter(g, tiling, b);
    float dH[9] = {};
    for (unsigned tile = first; tile < first + kTilesPerBlock && tile < tiles; ++tile) {
        const Place place(a, tiling, tile);
        if (!place.exists) continue;
        const Taps<float, n> taps = locate<n>(a, b, place.x, place.y);
        if (!taps.alive) continue;
        scatter(place, taps, dH);
    }
    if (g.homography) reduce(dH, g.homography + (blockIdx.x * tiling.shares + blockIdx.y) * 9);
}

template <typename Element>
struct Backward {
    template <int n, int vector>
    static void run(const WarpArguments& a, const Tiling& tiling, const WarpGradients* g, cudaStream_t stream) {
        launch(backward_kernel<Element, n, vector>, tiling.grid(a, kTilesPerBlock), dim3(kThreads), 0, stream, *g,
               tiling);
    }
};

// The input's gradient has elements of 4 or 8 bytes: vectors of four are enough for it.
template <typename Element>
Tiling tile_gradients(const WarpGradients& g) {
    const WarpArguments& a = g.forward;
    const auto tile_images = [&](std::initializer_list<const ImageView*> images) {
        return tile<Element>(a, images, 32, kSquareWidth, kTilesPerBlock, false);
    };
    if (!g.input.data) return tile_images({&a.input, &a.out});
    Tiling t = tile_images({&a.input, &a.out, &g.input});
    t.packed = t.packed && aligned(g.input, 4, 4);
    return t;
}

}  // namespace

std::int64_t homography_warp_parts(const WarpGradients& g) {
    std::int64_t parts = 0;
    with_float_type(g.forward.dtype, [&](auto element) {
        const Tiling t = tile_gradients<decltype(element)>(g);
        parts = t.blocks(kTilesPerBlock) * t.shares;
    });
    return parts;
}

void homography_warp_backward(const WarpGradients& g, cudaStream_t stream) {
    with_float_type(g.forward.dtype, [&](auto element) {
        using Element = decltype(element);
        choose<Backward<Element>, Element>(g.forward, tile_gradients<Element>(g), &g, stream);
    });
}

}  // namespace cuda
}  // namespace vsad
