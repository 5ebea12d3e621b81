// The forward of float16 / bfloat16 on tensor cores, for heads of 16, 32, 40, 64, 80 or 160 channels and
// windows of 3 and 5.
//
// A warp takes 4 x 4 target pixels of one head and, slot by slot, the box of source pixels that their windows touch: 49
// at a scale near one, where the windows one by one touch 256. It multiplies all its pixels with all of the box, which
// costs tensor cores little and loads every tap once. Every pixel then picks its window's scores from shared memory and
// leaves the weights of its taps there, zero in the rest of the box, for the product with the values. Weights are
// rounded to the dtype, as plain torch does; all sums are float32.
//
// Where a box is too large (H minifies, or a horizon is near), or a sum is not finite (zero times infinity somewhere in
// a box is NaN), the warp's pixels are computed again with ordinary instructions.
//
// Launch table: windows of 3 and 5, heads of 2, 4, 5, 8, 10 and 20 packs; 8 warps per block, 2 blocks per
// multiprocessor (1 for windows of 5 with 8 packs, and from 10 packs on). A block has 8 x 8 pixels of two heads when
// heads is even, because the channels of two heads fill sectors together, else 16 x 8 pixels of one.
#include "homography_align/cuda/forward_pixel.h"
#include "homography_align/cuda/mma_rows.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kWarps = kThreads / 32, kSide = 4, kRows = kSide * kSide;  // a warp has kSide x kSide pixels
// The fallback's lanes per pixel, for heads of so many packs.
template <int packs>
constexpr int kFallbackLanes = packs > 8 ? kWideLanes : 8;

// The most source pixels that a box may have.
template <int R>
constexpr int kBox = R == 3 ? 96 : 128;

// Rows of taps of each of the two lanes that share a pixel's softmax.
template <int R>
constexpr int kHalf = (R + 1) / 2;

// A warp's part of shared memory. Strides are chosen so that the lanes of a product read and write different banks.
template <typename Element, int R>
struct Strip {
    union {
        float scores[kRows][kBox<R> + 8];
        unsigned weights[kRows][kBox<R> / 2 + 4];  // two source pixels per word
    };
    int key_at[kBox<R>], value_at[kBox<R>];  // offsets of the box's pixels from its corner
};

// A warp's target pixels and head.
struct WarpTile {
    int b, v, head, x, y;
};

// The lane's place. In products it holds the rows `group` and `group` + 8 of pixels and the columns of `quad`. In the
// softmax two lanes share `pixel`, and the second has the lower rows of its window.
struct Lane {
    int index = threadIdx.x % 32, group = index / 4, quad = index % 4;
    int pixel = index % kRows, second = index / kRows;
};

// The two rows of pixels that a lane holds in products: `group` and `group` + 8, two image rows below.
struct PixelRows {
    int x, upper_y, lower_y;
    bool has_upper, has_lower;

    __device__ __forceinline__ PixelRows(const AlignArguments& a, const WarpTile& tile, const Lane& lane)
        : x(tile.x + lane.group % kSide),
          upper_y(tile.y + lane.group / kSide),
          lower_y(upper_y + 2),
          has_upper(x < a.W && upper_y < a.H),
          has_lower(x < a.W && lower_y < a.H) {}
};

// The box of source pixels that the windows of a warp touch.
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
        return !(width > most || height > most || width * height > most);
    }
    // Products take 16 source pixels at a time.
    __device__ __forceinline__ int steps() const { return (width * height + 15) / 16; }
};

// The lane's rows of its pixel's window, and where they lie in the box.
template <int R>
struct HalfWindow {
    const Window<R>& w;
    int first_row, at, width;

    __device__ __forceinline__ HalfWindow(const Window<R>& w, const WarpBox& box, const Lane& lane)
        : w(w),
          first_row(lane.second * kHalf<R>),
          at((w.top - box.top + first_row) * box.width + w.left - box.left),
          width(box.width) {}
    __device__ __forceinline__ bool has_tap(int row, int i) const {
        return w.has_row(first_row + row) && w.has_column(i);
    }
    __device__ __forceinline__ int box_index(int row, int i) const { return at + row * width + i; }
};

// Leaves the offsets of the box's pixels. Beyond the source's border its border pixels repeat, and beyond the box its
// last pixel.
template <typename Element, int R>
__device__ __forceinline__ void put_offsets(Strip<Element, R>& s, const AlignArguments& a, const WarpBox& box,
                                            const Lane& lane) {
    const int count = box.width * box.height, steps = box.steps();
    for (int i = lane.index; i < 16 * steps; i += 32) {
        const int at = i < count ? i : count - 1, row = at / box.width, column = at - row * box.width;
        const int last_row = static_cast<int>(a.Hs) - 1 - box.top, last_column = static_cast<int>(a.Ws) - 1 - box.left;
        const int at_y = row < last_row ? row : last_row, at_x = column < last_column ? column : last_column;
        s.key_at[i] = at_y * static_cast<int>(a.key.y) + at_x * static_cast<int>(a.key.x);
        s.value_at[i] = at_y * static_cast<int>(a.value.y) + at_x * static_cast<int>(a.value.x);
    }
}

// scores = <query, key> of all the warp's pixels and all of the box.
template <typename Element, int R, int packs>
__device__ __forceinline__ void multiply_keys(Strip<Element, R>& s, const unsigned (&upper)[packs],
                                              const unsigned (&lower)[packs], const Element* keys, int steps,
                                              const Lane& lane) {
#pragma unroll 2
    for (int i = 0; i < 2 * steps; ++i) {
        unsigned key[packs];
        load_row(key, keys + s.key_at[8 * i + lane.group]);
        float score[4] = {};
        multiply_rows<packs, Element>(score, upper, lower, key);
        *reinterpret_cast<float2*>(&s.scores[lane.group][8 * i + 2 * lane.quad]) = make_float2(score[0], score[1]);
        *reinterpret_cast<float2*>(&s.scores[lane.group + 8][8 * i + 2 * lane.quad]) = make_float2(score[2], score[3]);
    }
}

// A row of the window's scores, mixed along x; taps that take no part count as zero.
template <typename Element, int R>
__device__ __forceinline__ void mix_scores(float (&to)[R], const Strip<Element, R>& s, const HalfWindow<R>& half,
                                           const Lane& lane, int row) {
    float t[R + 1];
#pragma unroll
    for (int i = 0; i <= R; ++i) t[i] = half.has_tap(row, i) ? s.scores[lane.pixel][half.box_index(row, i)] : 0;
#pragma unroll
    for (int i = 0; i < R; ++i) to[i] = mix(half.w.fx, t[i], t[i + 1]);
}

// The logits of the lane's cells; -inf marks a cell that is not valid. Returns the greater of `highest` and all logits.
template <typename Element, int R>
__device__ __forceinline__ float find_logits(float (&cells)[kHalf<R>][R], const Strip<Element, R>& s,
                                             const HalfWindow<R>& half, const Lane& lane, float scale,
                                             const float* bias, float highest) {
    float mixed[R];
    mix_scores(mixed, s, half, lane, 0);
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row) {
        float next[R];
        mix_scores(next, s, half, lane, row + 1);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const int cell_row = half.first_row + row;
            const bool valid = half.w.cells.hold(cell_row, i);
            const float logit =
                logit_of(scale, mix(half.w.fy, mixed[i], next[i]), valid ? bias : nullptr, cell_row * R + i);
            cells[row][i] = valid ? logit : kMinusInfinity;
            highest = cells[row][i] > highest ? cells[row][i] : highest;
            mixed[i] = next[i];
        }
    }
    return highest;
}

// Adds the cells of both lanes of a pixel to its softmax; logits become weights. Returns the factor by which what was
// summed before shrinks.
template <int R>
__device__ __forceinline__ float add_cells(Softmax& softmax, float (&cells)[kHalf<R>][R], float highest) {
    const float other = __shfl_xor_sync(kWarp, highest, kRows);
    highest = other > highest ? other : highest;
    const float shift = highest == kMinusInfinity ? 0.f : highest;  // nothing valid yet: exp(-inf - 0) = 0
    const float keep = exp_of(softmax.peak - shift);
    float part = 0;
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
        for (int i = 0; i < R; ++i) part += cells[row][i] = exp_of(cells[row][i] - shift);
    softmax.peak = highest;
    softmax.total = softmax.total * keep + part + __shfl_xor_sync(kWarp, part, kRows);
    return keep;
}

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

// Leaves the weights of the pixels' taps in the box, rounded to the dtype, and zeros elsewhere.
template <typename Element, int R>
__device__ __forceinline__ void put_weights(Strip<Element, R>& s, const float (&weights)[kHalf<R>][R + 1],
                                            const HalfWindow<R>& half, int steps, const Lane& lane) {
    __syncwarp();  // everyone has read the scores, which the weights overwrite
    for (int i = lane.second; i < 2 * steps; i += 2)
        *reinterpret_cast<uint4*>(&s.weights[lane.pixel][4 * i]) = make_uint4(0, 0, 0, 0);
    __syncwarp();
    Element* to = reinterpret_cast<Element*>(s.weights[lane.pixel]);
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
        for (int i = 0; i <= R; ++i)
            if (half.has_tap(row, i)) to[half.box_index(row, i)] = narrow<Element>(weights[row][i]);
    __syncwarp();
}

// sum += weights times the box's values.
template <typename Element, int R, int packs>
__device__ __forceinline__ void multiply_values(float (&sum)[packs][4], const Strip<Element, R>& s,
                                                const Element* values, int steps, const Lane& lane) {
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
        const unsigned weights[4] = {
            s.weights[lane.group][8 * i + lane.quad], s.weights[lane.group + 8][8 * i + lane.quad],
            s.weights[lane.group][8 * i + 4 + lane.quad], s.weights[lane.group + 8][8 * i + 4 + lane.quad]};
        const int2 near = *reinterpret_cast<const int2*>(&s.value_at[16 * i + 2 * lane.quad]);
        const int2 next = *reinterpret_cast<const int2*>(&s.value_at[16 * i + 8 + 2 * lane.quad]);
        const Element* const from[4] = {values + near.x, values + near.y, values + next.x, values + next.y};
        add_values<Element>(sum, weights, from);
    }
}

// Multiplies the sums with their pixels' factors, which the lanes of the softmax hold.
template <int packs>
__device__ __forceinline__ void rescale(float (&sum)[packs][4], float keep, const Lane& lane) {
    const float upper = __shfl_sync(kWarp, keep, lane.group), lower = __shfl_sync(kWarp, keep, lane.group + 8);
#pragma unroll
    for (int i = 0; i < packs; ++i) {
        sum[i][0] *= upper;
        sum[i][1] *= upper;
        sum[i][2] *= lower;
        sum[i][3] *= lower;
    }
}

template <int packs>
__device__ __forceinline__ bool all_finite(const float (&sum)[packs][4]) {
    bool finite = true;
#pragma unroll
    for (int i = 0; i < packs; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) finite = finite && sum[i][j] - sum[i][j] == 0;
    return __all_sync(kWarp, finite);
}

// Writes out = sum / total, the peak and log_sum; 0, -inf and 0 where nothing was valid.
template <typename Element, int packs>
__device__ __forceinline__ void write_result(const PackedAlignArguments& a, const WarpTile& tile, const PixelRows& rows,
                                             const Lane& lane, const Softmax& softmax, const float (&sum)[packs][4]) {
    const bool nowhere = softmax.total == 0;
    const int x = tile.x + lane.pixel % kSide, y = tile.y + lane.pixel / kSide;
    if (x < a.W && y < a.H && !lane.second) softmax.store(a, pixel_index(a, tile.b, tile.v, tile.head, x, y));
    const float inverse = nowhere ? 0.f : 1 / softmax.total;
    const float upper = __shfl_sync(kWarp, inverse, lane.group), lower = __shfl_sync(kWarp, inverse, lane.group + 8);
    const auto out = [&](int row_y) {
        return const_cast<Element*>(
            pixel_at<Element>(a.out, tile.b, tile.v, rows.x, row_y, tile.head * packs * kPack<Element>));
    };
    if (rows.has_upper) store_row<Element>(out(rows.upper_y), sum, 0, upper);
    if (rows.has_lower) store_row<Element>(out(rows.lower_y), sum, 1, lower);
}

// The warp's pixels, from (x, y) on, with ordinary instructions. Not inlined, so that its registers do not count for
// the kernel; takes integers because a struct would be passed on the stack.
template <typename Element, int R, int kLanes>
__device__ __noinline__ void forward_fallback(const PackedAlignArguments& a, int b, int v, int head, int x, int y) {
#pragma unroll 1
    for (int i = threadIdx.x % 32 / kLanes; i < kRows; i += 32 / kLanes)
        forward_pixel<Element, R, kLanes>(a, b, v, head, 0, x + i % kSide, y + i / kSide);
}

// The pixels that the block's warps take. `together` (1 or 2) neighboring heads share a block; its warps lie 4 or 2
// beside each other and 2 above each other.
__device__ __forceinline__ WarpTile tile_of_warp(const PackedAlignArguments& a, int tiles, int tiles_across,
                                                 int together) {
    const int warp = threadIdx.x / 32, groups = a.heads / together, place = warp / together;
    const int tile = blockIdx.x / groups % tiles, view = blockIdx.x / groups / tiles, V = static_cast<int>(a.V);
    const int wide = together == 1 ? 4 : 2;
    return {view / V, view % V, static_cast<int>(blockIdx.x % groups * together + warp % together),
            (tile % tiles_across * wide + place % wide) * kSide, (tile / tiles_across * 2 + place / wide) * kSide};
}

template <typename Element, int R, int packs>
__global__ void __launch_bounds__(kThreads, packs > 8   ? 1
                                            : R == 3    ? 2
                                            : packs > 5 ? 1
                                                        : kBlocksPerMultiprocessor)
    mma_kernel(const __grid_constant__ PackedAlignArguments a, int tiles, int tiles_across, int together) {
    const WarpTile tile = tile_of_warp(a, tiles, tiles_across, together);
    if (tile.x >= a.W || tile.y >= a.H) return;
    const Lane lane;
    const PixelRows rows(a, tile, lane);
    const int channel = tile.head * packs * kPack<Element>;
    const int x = tile.x + lane.pixel % kSide, y = tile.y + lane.pixel / kSide;
    Strip<Element, R>& s = reinterpret_cast<Strip<Element, R>*>(dynamic_shared())[threadIdx.x / 32];

    unsigned upper[packs] = {}, lower[packs] = {};
    if (rows.has_upper) load_row(upper, pixel_at<Element>(a.query, tile.b, tile.v, rows.x, rows.upper_y, channel));
    if (rows.has_lower) load_row(lower, pixel_at<Element>(a.query, tile.b, tile.v, rows.x, rows.lower_y, channel));
    Softmax softmax;
    float sum[packs][4] = {};
    bool fits = true;
    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, tile.v, slot);
        if (source < 0) continue;
        const Window<R> w(a, homography_of(a, tile.b, tile.v, slot), x, y, x < a.W && y < a.H);
        if (!__any_sync(kWarp, w.has_valid_cell)) continue;
        const WarpBox box(w);
        fits = box.fits(kBox<R>);
        if (!fits) break;
        put_offsets(s, a, box, lane);
        __syncwarp();
        const Element* keys = pixel_at<Element>(a.key, tile.b, source, box.left, box.top, channel);
        const Element* values = pixel_at<Element>(a.value, tile.b, source, box.left, box.top, channel);
        multiply_keys(s, upper, lower, keys, box.steps(), lane);
        __syncwarp();

        const HalfWindow<R> half(w, box, lane);
        float cells[kHalf<R>][R], weights[kHalf<R>][R + 1];
        const float highest =
            find_logits<Element, R>(cells, s, half, lane, a.logit_scale, bias_of(a, tile.head, slot), softmax.peak);
        const float keep = add_cells<R>(softmax, cells, highest);
        cells_to_taps<R>(weights, cells, w, lane);
        rescale(sum, keep, lane);
        put_weights(s, weights, half, box.steps(), lane);
        multiply_values(sum, s, values, box.steps(), lane);
        __syncwarp();  // everyone has read the weights and offsets, which the next slot overwrites
    }
    if (!fits || !all_finite(sum))
        return forward_fallback<Element, R, kFallbackLanes<packs>>(a, tile.b, tile.v, tile.head, tile.x, tile.y);
    write_result<Element>(a, tile, rows, lane, softmax, sum);
}

template <typename Element, int packs>
void launch_mma(const PackedAlignArguments& a, cudaStream_t stream) {
    const int together = a.heads % 2 ? 1 : 2, wide = (together == 1 ? 4 : 2) * kSide, high = 2 * kSide;
    const std::int64_t across = (a.W + wide - 1) / wide, tiles = across * ((a.H + high - 1) / high);
    const dim3 grid = grid_of(a.B * a.V * tiles * (a.heads / together));
    const auto start = [&](auto R) {
        launch(mma_kernel<Element, R, packs>, grid, dim3(kThreads), kWarps * sizeof(Strip<Element, R>), stream, a,
               static_cast<int>(tiles), static_cast<int>(across), together);
    };
    if (a.window == 3) start(std::integral_constant<int, 3>());
    if (a.window == 5) start(std::integral_constant<int, 5>());
}

template <typename Element>
bool launch_mma_of_head(const PackedAlignArguments& a, cudaStream_t stream) {
    switch (a.key_packs) {
        case 2:
            return launch_mma<Element, 2>(a, stream), true;
        case 4:
            return launch_mma<Element, 4>(a, stream), true;
        case 5:
            return launch_mma<Element, 5>(a, stream), true;
        case 8:
            return launch_mma<Element, 8>(a, stream), true;
        case 10:
            return launch_mma<Element, 10>(a, stream), true;
        case 20:
            return launch_mma<Element, 20>(a, stream), true;
        default:
            return false;
    }
}

// Whether offsets within a box fit 32 bits.
bool has_near_pixels(const Image& t) {
    constexpr std::int64_t most = 1 << 23;
    return t.y < most && t.y > -most && t.x < most && t.x > -most;
}

}  // namespace
}  // namespace homography_align

bool homography_align_forward_mma(const PackedAlignArguments& a, cudaStream_t stream) {
    using namespace homography_align;
    const bool fits = a.key_packs == a.value_packs && (a.window == 3 || a.window == 5);
    if (!fits || !has_near_pixels(a.key) || !has_near_pixels(a.value)) return false;
    if (a.dtype == Scalar::bfloat16) return launch_mma_of_head<bfloat16>(a, stream);
    return a.dtype == Scalar::float16 && launch_mma_of_head<float16>(a, stream);
}

}  // namespace cuda
}  // namespace vsad
