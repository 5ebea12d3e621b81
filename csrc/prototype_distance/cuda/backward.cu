// Gradients of the distances. Only chosen prototypes have one; each sums over the features that chose it, in order.
//
// With feature f and prototype p the gradients are
//     df = own_f (f - p) + other_f p,    dp = own_p (p - f) + other_p f,
// where `other` is zero except for the cosine.
#include "prototype_distance/cuda/rows.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kColumns = 128;  // channels of a prototype that one block sums, 4 per lane

template <typename Element>
__device__ __forceinline__ Row<Element> plain_row(const Matrix& m, std::int64_t row) {
    return Row<Element>(m, nullptr, row, Metric::euclidean);
}

// Whether a saved index names a prototype. One that does not, which only a caller of the registered backward can give,
// has no gradient: on a GPU it cannot raise an error.
__device__ __forceinline__ bool names_one(std::int64_t index, const DistanceGradientArguments& a) {
    return static_cast<std::uint64_t>(index) < static_cast<std::uint64_t>(a.P);
}

// (own_f, other_f, own_p, other_p) of one pair; a warp computes them and every lane gets them.
template <typename Element>
__device__ __forceinline__ float4 weights_of(const Row<Element>& f, const Row<Element>& p, std::int64_t C,
                                             Metric metric, float grad) {
    const int lane = threadIdx.x % 32;
    if (metric != Metric::cosine) {
        const float squared = squared_distance(f, p, C);
        // at distance zero the gradient is zero; a NaN distance passes the comparison and gives NaN
        const float w = metric == Metric::sqeuclidean ? 2 * grad : squared == 0 ? 0.0f : grad / sqrtf(squared);
        return make_float4(w, 0, w, 0);
    }
    float ff = 0, pp = 0, fp = 0;
    for (std::int64_t c = lane; c < C; c += 32) {
        const float x = f[c], y = p[c];
        ff = fmaf(x, x, ff), pp = fmaf(y, y, pp), fp = fmaf(x, y, fp);
    }
    ff = warp_sum(ff), pp = warp_sum(pp), fp = warp_sum(fp);
    if (ff == 0 || pp == 0) return make_float4(0, 0, 0, 0);
    const float norms = sqrtf(ff) * sqrtf(pp), cosine = fp / norms;
    if (cosine > 1) return make_float4(0, 0, 0, 0);  // the distance is clamped there
    const float own_f = grad * cosine / ff, own_p = grad * cosine / pp, cross = grad / norms;
    return make_float4(own_f, own_f - cross, own_p, own_p - cross);
}

// Gradients of features, one warp per feature, and the weights of all pairs, which prototypes_kernel needs.
template <typename Element>
__global__ void __launch_bounds__(kThreads, 2) features_kernel(const __grid_constant__ DistanceGradientArguments a) {
    const int lane = threadIdx.x % 32;
    for (std::int64_t m = blockIdx.x * std::int64_t(kWarps) + threadIdx.x / 32; m < a.M; m += gridDim.x * kWarps) {
        const Row<Element> f = plain_row<Element>(a.features, m);
        for (std::int64_t n = m * a.k; n < (m + 1) * a.k; ++n) {
            if (!names_one(a.indices[n], a)) continue;
            const Row<Element> p = plain_row<Element>(a.prototypes, a.indices[n]);
            const float grad = widen(static_cast<const Element*>(a.grad_distances)[n]);
            const float4 w = weights_of(f, p, a.C, a.metric, grad);
            if (lane == 0) a.weights[n] = w;
        }
        if (!a.grad_features) continue;
        __syncwarp();  // all lanes see the weights that lane 0 wrote
        Element* to = static_cast<Element*>(a.grad_features) + m * a.C;
        for (std::int64_t c = lane; c < a.C; c += 32) {
            const float x = f[c];
            float sum = 0;
            for (std::int64_t n = m * a.k; n < (m + 1) * a.k; ++n) {
                if (!names_one(a.indices[n], a)) continue;
                const float y = plain_row<Element>(a.prototypes, a.indices[n])[c];
                const float4 w = a.weights[n];
                sum += w.x * (x - y) + w.y * y;
            }
            to[c] = narrow<Element>(sum);
        }
    }
}

// One block per prototype and kColumns channels. Each warp sums an equal part of the prototype's pairs, and the sums of
// the warps are added in order: the result has the same bits every time.
template <typename Element>
__global__ void __launch_bounds__(kThreads) prototypes_kernel(const __grid_constant__ DistanceGradientArguments a) {
    __shared__ float sums[kWarps][kColumns];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const std::int64_t first = blockIdx.y * std::int64_t(kColumns);
    for (std::int64_t row = blockIdx.x; row < a.P; row += gridDim.x) {
        const std::int64_t begin = a.begin[row], count = a.begin[row + 1] - begin;
        Element* to = static_cast<Element*>(a.grad_prototypes) + row * a.C + first;
        if (count == 0) {  // as for most prototypes
            if (threadIdx.x < kColumns && first + threadIdx.x < a.C) to[threadIdx.x] = narrow<Element>(0.0f);
            continue;
        }
        float sum[kColumns / 32] = {}, p[kColumns / 32] = {};
#pragma unroll
        for (int i = 0; i < kColumns / 32; ++i) {
            const std::int64_t c = first + i * 32 + lane;
            if (c < a.C) p[i] = plain_row<Element>(a.prototypes, row)[c];
        }
        for (std::int64_t n = count * warp / kWarps; n < count * (warp + 1) / kWarps; ++n) {
            const std::int64_t pair = a.sorted_pairs[begin + n];
            const float4 w = a.weights[pair];
            const Row<Element> f = plain_row<Element>(a.features, pair / a.k);
#pragma unroll
            for (int i = 0; i < kColumns / 32; ++i) {
                const std::int64_t c = first + i * 32 + lane;
                const float x = c < a.C ? f[c] : 0;
                sum[i] += w.z * (p[i] - x) + w.w * x;
            }
        }
#pragma unroll
        for (int i = 0; i < kColumns / 32; ++i) sums[warp][i * 32 + lane] = sum[i];
        __syncthreads();
        if (threadIdx.x < kColumns && first + threadIdx.x < a.C) {
            float total = 0;
            for (int w = 0; w < kWarps; ++w) total += sums[w][threadIdx.x];
            to[threadIdx.x] = narrow<Element>(total);
        }
        __syncthreads();  // the sums are no longer read when the next prototype's are written
    }
}

unsigned grid_size(std::int64_t blocks, std::int64_t most) {
    return static_cast<unsigned>(blocks < most ? blocks : most);
}

template <typename Element>
void run(const DistanceGradientArguments& a, cudaStream_t stream) {
    launch(features_kernel<Element>, dim3(grid_size((a.M + kWarps - 1) / kWarps, 8192)), dim3(kThreads), 0, stream, a);
    if (!a.grad_prototypes) return;
    const dim3 grid(grid_size(a.P, 16384), static_cast<unsigned>((a.C + kColumns - 1) / kColumns));
    launch(prototypes_kernel<Element>, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace

void prototype_distance_backward(const DistanceGradientArguments& a, cudaStream_t stream) {
    with_float_type(a.dtype, [&](auto element) { run<decltype(element)>(a, stream); });
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
