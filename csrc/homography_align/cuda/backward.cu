// Gradients of query, homography and bias, and of key and value by scattering. A block takes a tile of 8 x 8 target
// pixels, one head and one slice of its channels, and goes through all slots, each in two steps. First every pixel
// leaves the weights of its taps in shared memory and adds to grad_query. Then the block goes through the source pixels
// that its windows touch and adds to each what it receives from the whole tile. So a source pixel takes one atomic
// addition per tile and not one per window: eight times fewer at a scale near one, where atomic additions would bind.
//
// Launch table: 256 threads, 4 lanes per pixel; slices of 64 channels for float16 / bfloat16, of 48 for float32.
// Windows of 3 and more need more than 128 registers per thread, so one block per multiprocessor.
#include "cuda/ptx.h"
#include "homography_align/cuda/differentiate.h"
#include "homography_align/cuda/forward_pixel.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

// Windows that touch more source pixels than this, where H minifies, overlap too little to be added up first: their
// taps are scattered window by window.
constexpr int kMostTouched = 8 * kThreads / kLanes;

template <typename Element, int R>
struct Shared {
    Weights<R> weights;
    Staged<Element> staged;
    static constexpr int kSums = R * R + 9, kStride = kSums | 1;
    float sums[kPixels][kStride];  // per pixel: gradients of the logits, then of the homography
    Projection<float> point[kPixels];
    SourceBox box;
};

// A block's place in the call.
struct BackwardBlock : Block {
    int b, v, tiles, begin;  // begin: first pack of the slice

    __device__ __forceinline__ BackwardBlock(const PackedAlignArguments& a, int tiles, int slices, int slice_packs)
        : Block(slices, a.heads, tiles),
          b(view / static_cast<int>(a.V)),
          v(view % static_cast<int>(a.V)),
          tiles(tiles),
          begin(slice * slice_packs) {}
};

// <grad_out, out> of the pixel, from an out that is exact.
template <typename Element>
__device__ __forceinline__ float load_inner(const PackedAlignArguments& a, const Target<Element>& target,
                                            const Staged<Element>& staged) {
    const Element* out =
        pixel_at<Element>(a.out, target.b, target.v, target.x, target.y, target.head * a.value_packs * kPack<Element>);
    float sums[1] = {};
    for (int pack = threadIdx.x % kLanes; pack < target.grad_out.packs; pack += kLanes) {
        float own[kPack<Element>];
        target.grad_out.get(own, staged.grad_out[threadIdx.x / kLanes], pack);
        sums[0] = dot<Element>(own, load_packed(out + pack * kPack<Element>), sums[0]);
    }
    all_reduce_lanes<kLanes>(sums);
    return sums[0];
}

// The softmax of the pixel, left in `target`, and <grad_out, out>, both recomputed from the cells of all slots.
template <typename Element, int R>
__device__ __forceinline__ float recompute_softmax(const PackedAlignArguments& a, Target<Element>& target,
                                                   const Staged<Element>& staged) {
    Softmax softmax;
    float inner = 0, logits[R], products[R];  // inner is not divided by the total yet
    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, target.v, slot);
        if (source < 0) continue;
        const Window<R> w(a, homography_of(a, target.b, target.v, slot), target.x, target.y, target.exists);
        if (!__any_sync(kWarp, w.has_valid_cell)) continue;
        const Taps<Element, R> keys(a.key, target.b, source, target.query.channel, a, w);
        const Taps<Element, R> values(a.value, target.b, source, target.grad_out.channel, a, w);
        for_each_cell(
            a, target, slot, keys, values, w, staged,
            [&](int, int i, float logit, float value, const TapRow<R>&, const TapRow<R>&) {
                logits[i] = logit;
                products[i] = value;
            },
            [&](int) {
                float highest = softmax.peak;
#pragma unroll
                for (int i = 0; i < R; ++i) highest = logits[i] > highest ? logits[i] : highest;
                const float shift = highest == kMinusInfinity ? 0.f : highest;
                const float keep = exp_of(softmax.peak - shift);
                softmax.peak = highest;
                softmax.total *= keep;
                inner *= keep;
#pragma unroll
                for (int i = 0; i < R; ++i) {
                    const float weight = exp_of(logits[i] - shift);
                    softmax.total += weight;
                    inner += weight * products[i];
                }
            });
    }
    target.peak = softmax.peak == kMinusInfinity ? 0.f : softmax.peak;
    target.log_sum = softmax.log_sum();
    return softmax.total == 0 ? 0.f : inner / softmax.total;
}

// Adds gamma[tap] * key[tap] of the pixel's window.
template <typename Element, int R>
__device__ __forceinline__ void add_query_gradient(Sums<Element, kLanes>& grad_query, const float* weights,
                                                   const Taps<Element, R>& keys, const Window<R>& w) {
#pragma unroll 1
    for (int row = 0; row <= R; ++row) {
        float gamma[R + 1];
#pragma unroll
        for (int i = 0; i <= R; ++i) gamma[i] = weights[row * (R + 1) + i];
        add_row(grad_query, gamma, keys, w, row);
    }
}

// Leaves the gradient of the homography, from that of the projected point, and widens the tile's box by the window. In
// float32: many GPUs compute float64 at 1/64 of that rate.
template <typename Element, int R>
__device__ __forceinline__ void put_point_gradient(Shared<Element, R>& s, const Target<Element>& target,
                                                   const Window<R>& w, float gx, float gy) {
    const int pixel = threadIdx.x / kLanes;
    const Gradient3<float> d = project_backward(s.point[pixel], gx, gy);
    const float column[3] = {d.X, d.Y, d.Z};
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        s.sums[pixel][R * R + 3 * i] = column[i] * static_cast<float>(target.x);
        s.sums[pixel][R * R + 3 * i + 1] = column[i] * static_cast<float>(target.y);
        s.sums[pixel][R * R + 3 * i + 2] = column[i];
    }
    atomicMin(&s.box.left, w.left + w.cells.col_begin);
    atomicMin(&s.box.top, w.top + w.cells.row_begin);
    atomicMax(&s.box.right, w.left + w.cells.col_end);
    atomicMax(&s.box.bottom, w.top + w.cells.row_end);
}

// The first step of a slot: the tile's weights, sums and box in shared memory, and grad_query. Begins and ends with the
// whole block in step.
template <typename Element, int R>
__device__ __forceinline__ void differentiate_slot(const AlignBackwardArguments& g, const Target<Element>& target,
                                                   int slot, int source, const Window<R>& w, float inner,
                                                   Shared<Element, R>& s, Sums<Element, kLanes>& grad_query) {
    const PackedAlignArguments& a = g.forward;
    const int pixel = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
    if (threadIdx.x == 0) s.box = {0x7fffffff, 0x7fffffff, -1, -1};
    const Taps<Element, R> keys(a.key, target.b, source, target.query.channel, a, w);
    const Taps<Element, R> values(a.value, target.b, source, target.grad_out.channel, a, w);
    s.weights.put_corner(pixel, w, w.has_valid_cell);
    for (int i = lane; i < s.kSums; i += kLanes) s.sums[pixel][i] = 0;
    if (lane == 0) s.point[pixel] = w.point;  // kept here because registers are scarce until it is needed
    __syncthreads();
    float gx = 0, gy = 0;
    if (__any_sync(kWarp, w.has_valid_cell)) {
        differentiate(a, target, slot, keys, values, w, inner, s.staged, s.weights,
                      [&](int row, int i, float d, float by_x, float by_y) {
                          gx += by_x;
                          gy += by_y;
                          if (lane == 0) s.sums[pixel][row * R + i] = d;
                      });
        if (g.query) {
            __syncwarp();
            add_query_gradient(grad_query, s.weights.gamma[pixel], keys, w);
        }
    }
    if (w.has_valid_cell && lane == 0) put_point_gradient(s, target, w, gx, gy);
    __syncthreads();
}

// The block's partial sums over its pixels, in float64, added in a fixed order.
template <typename Element, int R>
__device__ __forceinline__ void write_sums(const AlignBackwardArguments& g, const BackwardBlock& block, int slot,
                                           const Shared<Element, R>& s) {
    const PackedAlignArguments& a = g.forward;
    const std::int64_t part = static_cast<std::int64_t>(block.view) * block.tiles + block.tile;
    const std::int64_t edge = block.view * a.N + slot;
    double* bias = g.bias ? g.bias + ((block.head * a.N + slot) * a.B * a.V * block.tiles + part) * R * R : nullptr;
    double* homography =
        g.homography ? g.homography + ((edge * block.tiles + block.tile) * a.heads + block.head) * 9 : nullptr;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = warp; i < s.kSums; i += kThreads / 32) {
        const double sum = warp_sum(static_cast<double>(s.sums[lane][i]) + static_cast<double>(s.sums[lane + 32][i]));
        if (lane) continue;
        if (i < R * R) {
            if (bias) bias[i] = sum;
        } else if (homography) {
            homography[i - R * R] = sum;
        }
    }
}

template <typename Element>
__device__ __forceinline__ void add_floats(float* to, float weight, const float (&values)[kPack<Element>]) {
#pragma unroll
    for (int i = 0; i < kPack<Element>; i += 4)
        red_add(to + i, make_float4(weight * values[i], weight * values[i + 1], weight * values[i + 2],
                                    weight * values[i + 3]));
}

// Adds weights[tap] * row to every tap of one window. `step` is the stride from one source pixel to the next.
template <typename Element, int R>
__device__ __forceinline__ void scatter_window(float* to, const float* weights, const StagedRow<Element>& row,
                                               const float4* staged, const Window<R>& w, const AlignArguments& a,
                                               std::int64_t step) {
    const int end = row.begin + Staged<Element>::kPacks < row.packs ? row.begin + Staged<Element>::kPacks : row.packs;
    for (int pack = row.begin + static_cast<int>(threadIdx.x % kLanes); pack < end; pack += kLanes) {
        float values[kPack<Element>];
        row.get(values, staged, pack);
#pragma unroll 1
        for (int tap = 0; tap < (R + 1) * (R + 1); ++tap) {
            const int y = tap / (R + 1), x = tap % (R + 1);
            if (w.has_row(y) && w.has_column(x) && w.top + y < a.Hs && w.left + x < a.Ws)
                add_floats<Element>(to + ((w.top + y) * a.Ws + w.left + x) * step + pack * kPack<Element>, weights[tap],
                                    values);
        }
    }
}

// The second step of a slot: adds to the gradients of key and value, once per source pixel of the box.
template <typename Element, int R>
__device__ __forceinline__ void scatter_tile(const AlignBackwardArguments& g, const BackwardBlock& block,
                                             const Target<Element>& target, int source, const Window<R>& w,
                                             const Shared<Element, R>& s, const SourceBox& box) {
    const PackedAlignArguments& a = g.forward;
    const int pixel = threadIdx.x / kLanes;
    const int key_channels = a.key_packs * kPack<Element>, value_channels = a.value_packs * kPack<Element>;
    const std::int64_t key_step = static_cast<std::int64_t>(a.heads) * key_channels;
    const std::int64_t value_step = static_cast<std::int64_t>(a.heads) * value_channels;
    const std::int64_t first = (block.b * a.S + source) * a.Hs * a.Ws;
    float* to_key = static_cast<float*>(g.key);
    float* to_value = static_cast<float*>(g.value);
    if (to_key) to_key += first * key_step + block.head * key_channels;
    if (to_value) to_value += first * value_step + block.head * value_channels;
    const int width = box.right - box.left + 1;
    const std::int64_t touched = static_cast<std::int64_t>(width) * (box.bottom - box.top + 1);
    if (touched > kMostTouched) {
        if (to_key) scatter_window(to_key, s.weights.gamma[pixel], target.query, s.staged.query[pixel], w, a, key_step);
        if (to_value)
            scatter_window(to_value, s.weights.beta[pixel], target.grad_out, s.staged.grad_out[pixel], w, a,
                           value_step);
        return;
    }
    for (int i = pixel; i < touched; i += kPixels) {
        const int x = box.left + i % width, y = box.top + i / width;
        Sums<Element, kLanes> key(block.begin, to_key ? a.key_packs : 0);
        Sums<Element, kLanes> value(block.begin, to_value ? a.value_packs : 0);
        collect(key, value, s.weights, s.staged, x, y);
        const std::int64_t at = static_cast<std::int64_t>(y) * a.Ws + x;
        key.for_each([&](int pack, const float (&sum)[kPack<Element>]) {
            add_floats<Element>(to_key + at * key_step + pack * kPack<Element>, 1, sum);
        });
        value.for_each([&](int pack, const float (&sum)[kPack<Element>]) {
            add_floats<Element>(to_value + at * value_step + pack * kPack<Element>, 1, sum);
        });
    }
}

template <typename Element, int R>
__global__ void __launch_bounds__(kThreads, R == 1 ? kBlocksPerMultiprocessor : 1)
    backward_kernel(const __grid_constant__ AlignBackwardArguments g, int tiles, int tiles_across, int slices) {
    const PackedAlignArguments& a = g.forward;
    const BackwardBlock block(a, tiles, slices, kSlicePacks<Element, kLanes>);
    const int pixel = threadIdx.x / kLanes;
    Shared<Element, R>& s = *reinterpret_cast<Shared<Element, R>*>(dynamic_shared());
    Target<Element> target(g, s.staged, block.begin, block.b, block.v, block.head,
                           block.tile % tiles_across * BackwardTile::kWidth + BackwardTile::x(pixel),
                           block.tile / tiles_across * BackwardTile::kHeight + BackwardTile::y(pixel));
    Sums<Element, kLanes> grad_query(block.begin, a.key_packs);
    float inner;
    if (a.out.data) {
        target.load_softmax(a);
        inner = load_inner(a, target, s.staged);
    } else {
        inner = recompute_softmax<Element, R>(a, target, s.staged);
    }

    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, block.v, slot);
        if (source < 0) continue;
        const Window<R> w(a, homography_of(a, block.b, block.v, slot), target.x, target.y, target.exists);
        // A barrier too: everyone has read what the slot before left in shared memory.
        if (!__syncthreads_or(w.has_valid_cell)) continue;
        differentiate_slot(g, target, slot, source, w, inner, s, grad_query);
        if (block.slice == 0) write_sums(g, block, slot, s);
        SourceBox box = s.box;
        if (box.right > a.Ws - 1) box.right = static_cast<int>(a.Ws) - 1;
        if (box.bottom > a.Hs - 1) box.bottom = static_cast<int>(a.Hs) - 1;
        if (!g.inner)
            scatter_tile(g, block, target, source, w, s, box);
        else if (threadIdx.x == 0 && block.head == 0 && block.slice == 0)
            g.boxes[(block.view * a.N + slot) * tiles + block.tile] = box;
    }
    if (!target.exists) return;
    if (g.query)
        grad_query.store(
            static_cast<Element*>(g.query) + dense_index(block.view, a.H, a.W, target.y, target.x, block.head, a.heads,
                                                         a.key_packs * kPack<Element>),
            1);
    if (g.inner && block.slice == 0 && threadIdx.x % kLanes == 0) {
        const std::int64_t at = pixel_index(a, block.b, block.v, block.head, target.x, target.y);
        g.inner[at] = inner;
        if (!a.out.data) {
            static_cast<float*>(a.peak)[at] = target.peak;
            static_cast<float*>(a.log_sum)[at] = target.log_sum;
        }
    }
}

}  // namespace
}  // namespace homography_align

std::int64_t homography_align_tiles(std::int64_t H, std::int64_t W) {
    return homography_align::BackwardTile::count(H, W);
}

void homography_align_backward(const AlignBackwardArguments& g, cudaStream_t stream) {
    using namespace homography_align;
    const PackedAlignArguments& a = g.forward;
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        const std::int64_t tiles = BackwardTile::count(a.H, a.W);
        const int shares = slices<Element, kLanes>(a.key_packs > a.value_packs ? a.key_packs : a.value_packs);
        with_window(a.window, [&](auto R) {
            launch(backward_kernel<Element, R>, grid_of(a.B * a.V * tiles * a.heads * shares), dim3(kThreads),
                   sizeof(Shared<Element, R>), stream, g, static_cast<int>(tiles),
                   static_cast<int>(BackwardTile::across(a.W)), shares);
        });
    });
}

}  // namespace cuda
}  // namespace vsad
