// Gradients of query, homography and bias of float16 / bfloat16 on tensor cores, and the weights with which
// gather_mma.cu finds those of key and value.
//
// A warp takes 4 x 4 target pixels of one head, as the forward does, and goes through the slots twice. First it finds
// the softmax of every pixel and <grad_out, out>: the forward's out is rounded too coarsely for that. Then, from the
// same dot products (kept of up to four slots, for windows of 3), it finds the gradients of the logits, and leaves what
// they weigh at every tap: gamma, which multiplies query and key, and beta, which multiplies grad_out. For key and
// value both are rounded to the dtype; all sums are float32.
//
// Where a box is too large (H minifies, or a horizon is near), the warp takes its pixels one by one, each with the box
// of its own window. So it does where grad_query is not finite (zero times infinity somewhere in a box is NaN): then
// with ordinary instructions.
//
// Launch table: windows of 3 and 5, heads of 2, 4, 5 and 8 packs; 4 warps per block, three blocks on a
// multiprocessor of Hopper. A block has two tiles of two heads when heads is even, because the channels of two
// heads fill sectors together, else four tiles of one.
#include "homography_align/cuda/backward_products.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

// The weights of the lane's taps. The first row of the second lane receives from the first lane's last cells.
template <int R>
__device__ __forceinline__ void cells_to_taps(float (&weights)[kHalf<R>][R + 1], const float (&cells)[kHalf<R>][R],
                                              const Window<R>& w, const Lane& lane) {
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row) spread<R>(weights[row], cells[row], w.fx);
    float above[R + 1];
#pragma unroll
    for (int i = 0; i <= R; ++i) {
        const float from = __shfl_sync(kWarp, weights[kHalf<R> - 1][i], lane.pixel);
        above[i] = lane.second ? from : 0.f;
    }
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
        for (int i = 0; i <= R; ++i) {
            const float below = weights[row][i];
            weights[row][i] = mix(w.fy, below, above[i]);
            above[i] = below;
        }
}

// Leaves the weights of the lane's taps for gather_mma.cu.
template <typename Element, int R>
__device__ __forceinline__ void store_taps(Element* to, const float (&weights)[kHalf<R>][R + 1]) {
    constexpr int n = kTapPiece<R>;
#pragma unroll
    for (int first = 0; first < kHalfTaps<R>; first += n) {
        float piece[n];
#pragma unroll
        for (int i = 0; i < n; ++i) piece[i] = weights[(first + i) / (R + 1)][(first + i) % (R + 1)];
        store_pack<n>(to + first, piece);
    }
}

// Leaves the weights of the pixels' taps in the box, and zeros elsewhere.
template <typename Element, int R>
__device__ __forceinline__ void put_weights(Strip<R>& s, const float (&weights)[kHalf<R>][R + 1],
                                            const HalfWindow<R>& half, int steps, const Lane& lane) {
    float* to = s.products[lane.pixel];
    for (int i = lane.second; i < 4 * steps; i += 2) *reinterpret_cast<uint4*>(to + 4 * i) = make_uint4(0, 0, 0, 0);
    __syncwarp();
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
        for (int i = 0; i <= R; ++i)
            if (half.has_tap(row, i)) to[half.box_index(row, i)] = weights[row][i];
}

// Two float32 numbers as sums of three pairs of the dtype. The gammas of a pixel add up to zero, which fewer digits
// would not keep where keys have a large mean. All but the first pair are multiplied by kRestScale, because what
// rounding to float16 leaves may lie below its smallest number.
template <typename Element>
constexpr float kRestScale = std::is_same<Element, float16>::value ? 2048 : 1;

template <typename Element>
__device__ __forceinline__ void split(unsigned& first, unsigned& second, unsigned& third, const float2& pair) {
    const float values[2] = {pair.x, pair.y};
    unsigned parts[3] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const Element a = narrow<Element>(values[i]);
        const float rest = (values[i] - widen(a)) * kRestScale<Element>;
        const Element b = narrow<Element>(rest), c = narrow<Element>(rest - widen(b));
        parts[0] |= static_cast<unsigned>(a.bits) << 16 * i;
        parts[1] |= static_cast<unsigned>(b.bits) << 16 * i;
        parts[2] |= static_cast<unsigned>(c.bits) << 16 * i;
    }
    first = parts[0];
    second = parts[1];
    third = parts[2];
}

// sum += gamma times the box's keys.
template <typename Element, int R, int packs>
__device__ __forceinline__ void add_keys(float (&sum)[packs][4], const Strip<R>& s, const Element* keys, int steps,
                                         const Lane& lane) {
    float rest[packs][4] = {};
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
        const int2 near = *reinterpret_cast<const int2*>(&s.key_at[16 * i + 2 * lane.quad]);
        const int2 next = *reinterpret_cast<const int2*>(&s.key_at[16 * i + 8 + 2 * lane.quad]);
        const Element* const from[4] = {moved(keys, near.x), moved(keys, near.y), moved(keys, next.x),
                                        moved(keys, next.y)};
        unsigned columns[packs][2], rows[3][4];
        load_columns<Element>(columns, from);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float* row = s.products[lane.group + j % 2 * 8];
            split<Element>(rows[0][j], rows[1][j], rows[2][j],
                           *reinterpret_cast<const float2*>(row + 16 * i + j / 2 * 8 + 2 * lane.quad));
        }
#pragma unroll
        for (int j = 0; j < packs; ++j) {
            mma(sum[j], rows[0], columns[j][0], columns[j][1], Element{});
            mma(rest[j], rows[1], columns[j][0], columns[j][1], Element{});
            mma(rest[j], rows[2], columns[j][0], columns[j][1], Element{});
        }
    }
#pragma unroll
    for (int i = 0; i < packs; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += rest[i][j] * (1 / kRestScale<Element>);
}

// As put_weights and add_keys, of one pixel with ordinary instructions. Its box is its window, all of whose taps take
// part. The lane adds to its channels 2 lane, 2 lane + 1, and 64 further on, which it keeps in the first two sums of
// rows 0 and 1.
template <typename Element, int R, int packs>
__device__ __forceinline__ void add_keys_of_pixel(float (&sum)[packs][4], Strip<R>& s,
                                                  const float (&weights)[kHalf<R>][R + 1], const HalfWindow<R>& half,
                                                  const Element* keys, int count, const Lane& lane) {
    float* to = s.products[0];
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
        for (int i = 0; i <= R; ++i)
            if (half.has_tap(row, i)) to[half.box_index(row, i)] = weights[row][i];
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
#pragma unroll
        for (int part = 0; part < (packs + 7) / 8; ++part) {
            const int channel = 2 * lane.index + 64 * part;
            if (channel >= packs * kPack<Element>) break;
            float pair[2];
            load_pack<2>(moved(keys, s.key_at[i]) + channel, pair);
            sum[part][0] += to[i] * pair[0];
            sum[part][1] += to[i] * pair[1];
        }
    }
}

// Leaves the gradients of the pixel's logits and its part of the homography's, from the gradient (gx, gy) of its
// projected point. In float32: many GPUs compute float64 at 1/64 of that rate.
template <typename Element, int R, int packs>
__device__ __forceinline__ void put_sums(const WarpCall<Element, R, packs>& c, int slot, const Window<R>& w,
                                         const float (&grads)[kHalf<R>][R], float gx, float gy) {
    float* to = c.place(slot).sums[c.lane.pixel];
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const int cell_row = c.lane.second * kHalf<R> + row;
            if (cell_row < R) to[cell_row * R + i] = grads[row][i];
        }
    gx += __shfl_xor_sync(kWarp, gx, kRows);
    gy += __shfl_xor_sync(kWarp, gy, kRows);
    if (c.lane.second) return;
    Gradient3<float> d = {0, 0, 0};
    if (w.has_valid_cell) d = project_backward(w.point, gx, gy);
    const float column[3] = {d.X, d.Y, d.Z};
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        to[R * R + 3 * i] = column[i] * static_cast<float>(c.x());
        to[R * R + 3 * i + 1] = column[i] * static_cast<float>(c.y());
        to[R * R + 3 * i + 2] = column[i];
    }
}

// Adds the tile's partial sums over its pixels, in float64 and a fixed order. Nobody else adds to them.
template <typename Element, int R, int packs>
__device__ __forceinline__ void write_sums(const WarpCall<Element, R, packs>& c, int slot) {
    const PackedAlignArguments& a = c.g.forward;
    const WarpTile& t = c.tile;
    const std::int64_t part = static_cast<std::int64_t>(t.view) * c.tiles + t.tile;
    const std::int64_t edge = t.view * a.N + slot;
    double* bias = c.g.bias ? c.g.bias + ((t.head * a.N + slot) * a.B * a.V * c.tiles + part) * R * R : nullptr;
    double* homography =
        c.g.homography ? c.g.homography + ((edge * c.tiles + t.tile) * a.heads + t.head) * 9 - R * R : nullptr;
    for (int i = c.lane.index; i < Strip<R>::kSums; i += 32) {
        double* to = i < R * R ? bias : homography;
        if (!to) continue;
        double sum = 0;
#pragma unroll
        for (int pixel = 0; pixel < kRows; ++pixel) sum += static_cast<double>(c.place(slot).sums[pixel][i]);
        to[i] = c.only == kAllPixels ? sum : to[i] + sum;
    }
}

// Adds to grad_query and, unless `query_only`, writes every other result. The alphas and gradients of the logits are
// those of differentiate.h.
template <typename Element, int R, int packs>
__device__ __forceinline__ void differentiate_slots(const WarpCall<Element, R, packs>& c, const PixelSoftmax& softmax,
                                                    bool query_only, float (&sum)[packs][4]) {
    const PackedAlignArguments& a = c.g.forward;
    const bool looked_at = c.only == kAllPixels || c.lane.pixel == c.only;
    float grad_log_sum = 0;
    if (c.g.grad_log_sum && c.exists())
        grad_log_sum =
            static_cast<const float*>(c.g.grad_log_sum)[pixel_index(a, c.tile.b, c.tile.v, c.tile.head, c.x(), c.y())];
    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, c.tile.v, slot);
        if (source < 0) continue;
        const Window<R> w = c.window(slot);
        if (!__any_sync(kWarp, w.has_valid_cell)) continue;
        const WarpBox box(w);
        if (c.keeps_taps()) {
            __syncwarp();  // everyone has read what the slot before left
            put_offsets(c.s, a, box, sizeof(Element), c.lane);
        } else {
            multiply_slot(c, slot, source, w, box);
        }

        const HalfWindow<R> half(w, box, c.lane);
        float alphas[kHalf<R>][R], grads[kHalf<R>][R], gx = 0, gy = 0;
        visit_cells(
            c, slot, half,
            [&](int row, int i, float logit, float value, const TapRow<R>& upper, const TapRow<R>& lower) {
                const bool valid = w.cells.hold(half.first_row + row, i);
                const float alpha = valid ? exp_of((logit - softmax.peak) - softmax.log_sum) : 0.f;
                // The only cell with weight has value == inner: rounding must not give its logit, which
                // changes nothing, a gradient.
                const float d = valid ? alpha * (value - (alpha == 1 ? value : softmax.inner) + grad_log_sum) : 0.f;
                const float gamma = a.logit_scale * d;
                alphas[row][i] = alpha;
                grads[row][i] = d;
                if (!valid) return;
                gx += gamma * slope_x(w, upper.key, lower.key, i) + alpha * slope_x(w, upper.value, lower.value, i);
                gy += gamma * slope_y(w, upper.key, lower.key, i) + alpha * slope_y(w, upper.value, lower.value, i);
            });
        __syncwarp();  // everyone has read the taps, which the sums overwrite
        if (!query_only) put_sums(c, slot, w, grads, gx, gy);
        float weights[kHalf<R>][R + 1];
        auto* taps = static_cast<Element*>(c.g.taps);
        if (taps)
            taps += tap_index<R>(a, c.tile.view, slot, c.tiles, c.tile.tile, c.tile.head, 0) +
                    (2 * c.lane.pixel + c.lane.second) * kHalfTaps<R>;
        if (taps && !query_only) {
            cells_to_taps<R>(weights, alphas, w, c.lane);
            if (looked_at) store_taps<Element, R>(taps + kRows * 2 * kHalfTaps<R>, weights);
        }
#pragma unroll
        for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
            for (int i = 0; i < R; ++i) grads[row][i] *= a.logit_scale;
        cells_to_taps<R>(weights, grads, w, c.lane);
        if (taps && !query_only && looked_at) store_taps<Element, R>(taps, weights);
        const auto* keys = pixel_at<Element>(a.key, c.tile.b, source, box.left, box.top, c.channel());
        if (c.g.query && c.only == kAllPixels) {
            put_weights<Element>(c.s, weights, half, box.steps(), c.lane);
            __syncwarp();
            add_keys(sum, c.s, keys, box.steps(), c.lane);
        } else if (c.g.query) {
            add_keys_of_pixel(sum, c.s, weights, half, keys, box.width * box.height, c.lane);
        }
        __syncwarp();
        if (!query_only) write_sums(c, slot);
    }
}

// The row of grad_query of the tile's pixel i; null where there is none.
template <typename Element, int R, int packs>
__device__ __forceinline__ Element* query_row(const WarpCall<Element, R, packs>& c, int i) {
    const PackedAlignArguments& a = c.g.forward;
    const int x = c.tile.x + i % kSide, y = c.tile.y + i / kSide;
    if (!c.g.query || x >= a.W || y >= a.H) return nullptr;
    return static_cast<Element*>(c.g.query) +
           dense_index(c.tile.view, a.H, a.W, y, x, c.tile.head, a.heads, packs * kPack<Element>);
}

template <typename Element, int R, int packs>
__device__ __forceinline__ void store_query(const WarpCall<Element, R, packs>& c, const float (&sum)[packs][4]) {
    if (c.only == kAllPixels) {
        Element *upper = query_row(c, c.lane.group), *lower = query_row(c, c.lane.group + 8);
        if (upper) store_row<Element>(upper, sum, 0, 1);
        if (lower) store_row<Element>(lower, sum, 1, 1);
    } else if (Element* to = query_row(c, c.only)) {
#pragma unroll
        for (int part = 0; part < (packs + 7) / 8; ++part) {
            const int channel = 2 * c.lane.index + 64 * part;
            const float pair[2] = {sum[part][0], sum[part][1]};
            if (channel < packs * kPack<Element>) store_pack<2>(to + channel, pair);
        }
    }
}

// The tile that a warp takes. `together` (1 or 2) neighboring heads share a block, whose tiles lie beside each other.
__device__ __forceinline__ WarpTile tile_of_warp(const AlignArguments& a, int tiles, int tiles_across, int together) {
    const int warp = threadIdx.x / 32, groups = a.heads / together, wide = kBackwardWarps / together;
    const int blocks = (tiles + wide - 1) / wide, V = static_cast<int>(a.V);
    const int view = blockIdx.x / groups / blocks, tile = blockIdx.x / groups % blocks * wide + warp / together;
    return {view,
            view / V,
            view % V,
            static_cast<int>(blockIdx.x % groups * together + warp % together),
            tile,
            tile % tiles_across * kSide,
            tile / tiles_across * kSide};
}

template <typename Element, int R, int packs>
__global__ void __launch_bounds__(32 * kBackwardWarps)
    backward_mma_kernel(const __grid_constant__ AlignMmaBackwardArguments g, int tiles, int tiles_across,
                        int together) {
    const PackedAlignArguments& a = g.forward;
    const WarpTile tile = tile_of_warp(a, tiles, tiles_across, together);
    if (tile.tile >= tiles) return;
    WarpCall<Element, R, packs> c = {
        g, tile, reinterpret_cast<Strip<R>*>(dynamic_shared()) [threadIdx.x / 32], {}, {}, {}, tiles, kAllPixels};
    load_fragment<packs, Element>(c.query, a.query, a, tile, c.lane, c.channel());
    load_fragment<packs, Element>(c.grad_out, g.grad_out, a, tile, c.lane, c.channel());

    PixelSoftmax softmax;
    bool query_only = false;
    // One turn for all pixels and, where that does not do, one for each.
#pragma unroll 1
    for (; c.only < kRows; ++c.only) {
        if (!query_only && !find_softmax(c, softmax)) continue;
        float sum[packs][4] = {};
        differentiate_slots(c, softmax, query_only, sum);
        if (c.only == kAllPixels) {
            if (!g.query || all_finite(sum)) return store_query(c, sum);
            query_only = true;
        } else {
            store_query(c, sum);
        }
    }
}

}  // namespace
}  // namespace homography_align

bool homography_align_has_mma_backward(const PackedAlignArguments& a, const Image& grad_out) {
    // Offsets in bytes within a box, and within a view of targets, fit 32 bits.
    constexpr std::int64_t most = 1 << 22, most_in_view = 1 << 30;
    const auto size = [](std::int64_t step) { return step < 0 ? -step : step; };
    for (const Image* t : {&a.key, &a.value})
        if (size(t->y) >= most || size(t->x) >= most) return false;
    for (const Image* t : {&a.query, &grad_out})
        if (a.H * size(t->y) + a.W * size(t->x) >= most_in_view) return false;
    return homography_align::with_mma_kernel(a, [](auto...) {});
}

std::int64_t homography_align_mma_tiles(std::int64_t H, std::int64_t W) {
    using namespace homography_align;
    return mma_tiles_across(W) * mma_tiles_across(H);
}

void homography_align_backward_mma(const AlignMmaBackwardArguments& g, cudaStream_t stream) {
    using namespace homography_align;
    const PackedAlignArguments& a = g.forward;
    const std::int64_t tiles = homography_align_mma_tiles(a.H, a.W);
    const int together = a.heads % 2 ? 1 : 2, wide = kBackwardWarps / together;
    const dim3 grid = grid_of(a.B * a.V * ((tiles + wide - 1) / wide) * (a.heads / together));
    with_mma_kernel(a, [&](auto element, auto R, auto packs) {
        launch(backward_mma_kernel<decltype(element), R, packs>, grid, dim3(32 * kBackwardWarps),
               kBackwardWarps * sizeof(Strip<R>), stream, g, static_cast<int>(tiles),
               static_cast<int>(mma_tiles_across(a.W)), together);
    });
}

}  // namespace cuda
}  // namespace vsad
