// A block takes a tile of 8 x 8 target pixels, one head and a slice of its channels, and goes through all slots. A slot
// has two steps. First every pixel finds the weights of its taps, adds up grad_query and leaves the weights in shared
// memory. Then the block goes through the source pixels that its windows touch: their sums over the tile's windows are
// added to memory once, not once a window, which at a scale near one makes eight times fewer atomic additions.
//
// Launch table: 256 threads, 4 lanes a pixel; a slice for each 64 channels of a half type's head, 48 of a float's.
// Windows of 3 want 180 registers, so one block a multiprocessor; in 128 they would spill 16 to 36 bytes.
//
// Arithmetic, counted and not measured, for an H200 as in homography_align.cu: B = 8, V = 5, N = 4, 64 x 64, R = 3, 8
// heads of 40, so 81,920 tiles, heads and slots. A float tile: 8 warps find the weights with 16 taps x 3 tensors' turns
// x 3 packs x 6 instructions and 450 others, 10,500 together; 121 source pixels in 16 turns of a warp look at 64 pixels
// (8 instructions each) and add some 32 of them (2 tensors x 3 packs x 6), 27,000: 37,000 in all, 3.4 ms, and it binds.
// bfloat16 converts as much as it multiplies, and finds <grad_out, out> in a turn of its own: 60,000, 5.5 ms. Atomic
// additions: 121 pixels x 80 channels x 4 bytes, 3.2 GB, 1.3 ms at some 2.5 TB/s, beside that; window by window they
// would be 27 GB and 11 ms.
#include "cuda/ptx.h"
#include "homography_align/cuda/differentiate.h"
#include "homography_align/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kMostTouched =
    8 * kThreads / kLanes;  // source pixels; more, where H minifies, are added window by window

template <typename Element, int R>
struct Shared {
    Weights<R> weights;
    Staged<Element> staged;
    static constexpr int kSums = R * R + 9, kStride = kSums | 1;
    float sums[kPixels][kStride];  // dlogit of the cells, then dH
    Projection<float> point[kPixels];
    AlignBox box;
};

template <typename Element>
__device__ __forceinline__ void add_floats(float* to, float weight, const float (&values)[kPack<Element>]) {
#pragma unroll
    for (int i = 0; i < kPack<Element>; i += 4)
        red_add(to + i, make_float4(weight * values[i], weight * values[i + 1], weight * values[i + 2],
                                    weight * values[i + 3]));
}

// Adds weights[tap] * row to all taps of a window.
template <typename Element, int R>
__device__ __forceinline__ void scatter(float* to, const float* weights, const StagedRow<Element>& row,
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

// The sums of a block over its pixels, in double, always in the same order.
template <typename Element, int R>
__device__ __forceinline__ void write_sums(const Shared<Element, R>& s, double* bias, double* homography) {
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

template <typename Element, int R>
__global__ void __launch_bounds__(kThreads, R == 1 ? kSharing : 1)
    backward_kernel(const __grid_constant__ AlignGradients g, int tiles, int tiles_across, int slices) {
    const AlignArguments& a = g.forward;
    const int slice = blockIdx.x % slices, head = blockIdx.x / slices % a.heads;
    const int tile = blockIdx.x / slices / a.heads % tiles, view = blockIdx.x / slices / a.heads / tiles;
    const int V = static_cast<int>(a.V), b = view / V, v = view % V, pixel = threadIdx.x / kLanes;
    const int tile_x = tile % tiles_across * BackwardTile::kWidth, tile_y = tile / tiles_across * BackwardTile::kHeight;
    const int key_channels = a.key_packs * kPack<Element>, value_channels = a.value_packs * kPack<Element>;
    const int begin = slice * kSlicePacks<Element, kLanes>;
    const bool gathers = g.inner;
    Shared<Element, R>& s = *reinterpret_cast<Shared<Element, R>*>(dynamic_shared());
    const Target<Element> target(g, s.staged, begin, b, v, head, tile_x + BackwardTile::x(pixel),
                                 tile_y + BackwardTile::y(pixel));
    const int lane = threadIdx.x % kLanes;
    Sums<Element, kLanes> grad_query(begin, a.key_packs);

    float inner = 0;
    if (a.out.data) {
        const Element* out = pixel_at<Element>(a.out, b, v, target.x, target.y, head * value_channels);
        for (int pack = lane; pack < target.grad_out.packs; pack += kLanes) {
            float own[kPack<Element>];
            target.grad_out.get(own, s.staged.grad_out[pixel], pack);
            inner = dot<Element>(own, load_packed(out + pack * kPack<Element>), inner);
        }
        float sums[1] = {inner};
        sum_over_lanes<kLanes>(sums);
        inner = sums[0];
    }
    // without out, a first turn through the slots finds inner
    for (int turn = a.out.data ? 1 : 0; turn < 2; ++turn) {
        float found = 0;
        for (int slot = 0; slot < a.N; ++slot) {
            const int source = source_of(a, v, slot);
            if (source < 0) continue;
            const Window<R> w(a, homography_of(a, b, v, slot), target.x, target.y, target.exists);
            // what was read of the slot before may be overwritten
            if (turn == 1 ? !__syncthreads_or(w.useful) : !__any_sync(kWarp, w.useful)) continue;
            if (turn == 1 && threadIdx.x == 0) s.box = {0x7fffffff, 0x7fffffff, -1, -1};
            const Taps<Element, R> keys(a.key, b, source, head * key_channels, a, w);
            const Taps<Element, R> values(a.value, b, source, head * value_channels, a, w);
            float gx = 0, gy = 0;
            if (turn == 1) {
                s.weights.put_corner(pixel, w, w.useful);
                for (int i = lane; i < s.kSums; i += kLanes) s.sums[pixel][i] = 0;
                if (lane == 0) s.point[pixel] = w.point;  // registers are scarce until it is needed
                __syncthreads();
            }
            if (__any_sync(kWarp, w.useful)) {
                differentiate(g, target, slot, keys, values, w, inner, s.staged, s.weights,
                              [&](int row, int i, float alpha, float value, float d, float by_x, float by_y) {
                                  gx += turn == 0 ? alpha * value : by_x;
                                  gy += by_y;
                                  if (turn == 1 && lane == 0) s.sums[pixel][row * R + i] = d;
                              });
                if (turn == 1 && g.query) {
                    __syncwarp();
#pragma unroll 1
                    for (int row = 0; row <= R; ++row) {
                        float gamma[R + 1];
#pragma unroll
                        for (int i = 0; i <= R; ++i) gamma[i] = s.weights.gamma[pixel][row * (R + 1) + i];
                        grad_query.add_row(gamma, keys, w, row);
                    }
                }
            }
            if (turn == 0) {
                found += gx;
                continue;
            }
            if (w.useful && lane == 0) {
                // as in geometry.h, but in float: double is slow on many a GPU
                const Projection<float> point = s.point[pixel];
                const float dX = gx / point.Z, dY = gy / point.Z, dZ = -(dX * point.x + dY * point.y);
                const float column[3] = {dX, dY, dZ};
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
            __syncthreads();
            const std::int64_t part = static_cast<std::int64_t>(view) * tiles + tile, edge = view * a.N + slot;
            if (slice == 0)
                write_sums(s, g.bias ? g.bias + ((head * a.N + slot) * a.B * a.V * tiles + part) * R * R : nullptr,
                           g.homography ? g.homography + ((edge * tiles + tile) * a.heads + head) * 9 : nullptr);
            AlignBox box = s.box;
            if (box.right > a.Ws - 1) box.right = static_cast<int>(a.Ws) - 1;
            if (box.bottom > a.Hs - 1) box.bottom = static_cast<int>(a.Hs) - 1;
            if (gathers) {
                if (threadIdx.x == 0 && head == 0 && slice == 0) g.boxes[edge * tiles + tile] = box;
                continue;
            }
            const std::int64_t key_step = static_cast<std::int64_t>(a.heads) * key_channels;
            const std::int64_t value_step = static_cast<std::int64_t>(a.heads) * value_channels;
            const std::int64_t first = (b * a.S + source) * a.Hs * a.Ws;
            float* to_key = reinterpret_cast<float*>(g.key);
            float* to_value = reinterpret_cast<float*>(g.value);
            if (to_key) to_key += first * key_step + head * key_channels;
            if (to_value) to_value += first * value_step + head * value_channels;
            const int width = box.right - box.left + 1;
            const std::int64_t touched = static_cast<std::int64_t>(width) * (box.bottom - box.top + 1);
            if (touched > kMostTouched) {
                if (to_key)
                    scatter(to_key, s.weights.gamma[pixel], target.query, s.staged.query[pixel], w, a, key_step);
                if (to_value)
                    scatter(to_value, s.weights.beta[pixel], target.grad_out, s.staged.grad_out[pixel], w, a,
                            value_step);
                continue;
            }
            for (int i = pixel; i < touched; i += kPixels) {
                const int x = box.left + i % width, y = box.top + i / width;
                Sums<Element, kLanes> key(begin, to_key ? a.key_packs : 0), value(begin, to_value ? a.value_packs : 0);
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
        if (turn == 0) inner = found;
    }
    if (!target.exists) return;
    if (g.query)
        grad_query.store(reinterpret_cast<Element*>(g.query) +
                             dense_at(view, a.H, a.W, target.y, target.x, head, a.heads, key_channels),
                         1);
    if (gathers && slice == 0 && lane == 0) g.inner[number_at(a, b, v, head, target.x, target.y)] = inner;
}

}  // namespace

std::int64_t homography_align_tiles(std::int64_t H, std::int64_t W) { return BackwardTile::count(H, W); }

void homography_align_backward(const AlignGradients& g, cudaStream_t stream) {
    const AlignArguments& a = g.forward;
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        const std::int64_t tiles = BackwardTile::count(a.H, a.W);
        const int shares = slices<Element, kLanes>(a.key_packs > a.value_packs ? a.key_packs : a.value_packs);
        with_window(a.window, [&](auto R) {
            launch(backward_kernel<Element, R>, dim3(blocks(a.B * a.V * tiles * a.heads * shares)), dim3(kThreads),
                   sizeof(Shared<Element, R>), stream, g, static_cast<int>(tiles),
                   static_cast<int>(BackwardTile::across(a.W)), shares);
        });
    });
}

}  // namespace cuda
}  // namespace vsad
