// Gradients of query, homography and bias of float16 / bfloat16 on tensor cores, and the weights with which
// gather_mma.cu finds those of key and value.
//
// A warp takes 4 x 4 target pixels of one head, as the forward does, and goes through the slots twice. First it finds
// the softmax of every pixel and <grad_out, out>: the forward's out is rounded too coarsely for that. Then it finds the
// same dot products again, with them the gradients of the logits, and leaves what they weigh at every tap: gamma, which
// multiplies query and key, and beta, which multiplies grad_out. For key and value both are rounded to the dtype; all
// sums are float32.
//
// Where a box is too large (H minifies, or a horizon is near), the warp takes its pixels one by one, each with the box
// of its own window. So it does where grad_query is not finite (zero times infinity somewhere in a box is NaN): then
// with ordinary instructions.
//
// Launch table: windows of 3 and 5, heads of 2, 4, 5 and 8 packs; 4 warps per block, so that two blocks share the
// memory of every multiprocessor. A block has two tiles of two heads when heads is even, because the channels of two
// heads fill sectors together, else four tiles of one.
#include "homography_align/cuda/backward_warp.h"
#include "homography_align/cuda/forward_pixel.h"

namespace vsad {
namespace cuda {
namespace homography_align {
namespace {

constexpr int kBackwardWarps = 4;
constexpr int kAllPixels = -1;

// Slots whose taps a warp keeps between its two turns; where there are more, and for windows of 5, the second turn
// multiplies again.
template <int R>
constexpr int kKeptSlots = R == 3 ? 4 : 1;

// A warp's part of shared memory. Strides are chosen so that its lanes use different banks.
template <int R>
struct Strip {
    static constexpr int kSums = R * R + 9, kStride = kSums | 1, kTapStride = R == 3 ? 20 : 38;
    struct Taps {
        float key[kRows][kTapStride], value[kRows][kTapStride];  // the dot products with the taps of every window
    };
    // Dot products of all pixels with all of the box; in the second turn then the gammas.
    float products[kRows][kBox<R> + 8];
    union Slot {
        Taps taps;
        float sums[kRows][kStride];  // then: gradients of a pixel's logits and of the homography
    } slots[kKeptSlots<R>];
    int key_at[kBox<R>], value_at[kBox<R>];  // offsets of the box's pixels from its corner, in bytes
};

// Everything that a warp knows of its call but the softmax. `only` is the one pixel that is looked at, or kAllPixels.
template <typename Element, int R, int packs>
struct WarpCall {
    const AlignMmaBackwardArguments& g;
    const WarpTile& tile;
    Strip<R>& s;
    Lane lane;
    Fragment<packs> query, grad_out;
    int tiles, only;

    __device__ __forceinline__ int channel() const { return tile.head * packs * kPack<Element>; }
    __device__ __forceinline__ int x() const { return tile.x + lane.pixel % kSide; }
    __device__ __forceinline__ int y() const { return tile.y + lane.pixel / kSide; }
    __device__ __forceinline__ bool exists() const { return x() < g.forward.W && y() < g.forward.H; }
    __device__ __forceinline__ bool keeps_taps() const {
        return kKeptSlots<R> > 1 && only == kAllPixels && g.forward.N <= kKeptSlots<R>;
    }
    __device__ __forceinline__ typename Strip<R>::Slot& place(int slot) const {
        return s.slots[keeps_taps() ? slot : 0];
    }
    __device__ __forceinline__ Window<R> window(int slot) const {
        const PackedAlignArguments& a = g.forward;
        const bool looked_at = only == kAllPixels || lane.pixel == only;
        return Window<R>(a, homography_of(a, tile.b, tile.v, slot), x(), y(), exists() && looked_at);
    }
};

// The softmax of the lane's pixel; both of its lanes hold it.
struct PixelSoftmax {
    float peak, log_sum, inner;  // inner is <grad_out, out>; the peak is 0 where no cell is valid
};

template <int packs, typename Element>
__device__ __forceinline__ void load_fragment(Fragment<packs>& to, const Image& image, const AlignArguments& a,
                                              const WarpTile& tile, const Lane& lane, int channel) {
    const int x = tile.x + lane.group % kSide, y = tile.y + lane.group / kSide;
    to = {};
    if (x < a.W && y < a.H) load_row(to.upper, pixel_at<Element>(image, tile.b, tile.v, x, y, channel));
    if (x < a.W && y + 2 < a.H) load_row(to.lower, pixel_at<Element>(image, tile.b, tile.v, x, y + 2, channel));
}

// Leaves the offsets of the box's pixels. Beyond the source's border its border pixels repeat, and beyond the box its
// last pixel, up to a full turn of multiply_box.
template <int R>
__device__ __forceinline__ void put_offsets(Strip<R>& s, const AlignArguments& a, const WarpBox& box, int element_bytes,
                                            const Lane& lane) {
    const int count = box.width * box.height;
    const int last_row = static_cast<int>(a.Hs) - 1 - box.top, last_column = static_cast<int>(a.Ws) - 1 - box.left;
    const int key_y = static_cast<int>(a.key.y) * element_bytes, key_x = static_cast<int>(a.key.x) * element_bytes;
    const int value_y = static_cast<int>(a.value.y) * element_bytes;
    const int value_x = static_cast<int>(a.value.x) * element_bytes;
    const float inverse = 1.f / static_cast<float>(box.width);
#pragma unroll 1
    for (int i = lane.index; i < (count + 31) / 32 * 32; i += 32) {
        const int at = i < count ? i : count - 1;
        // Integer division: at + 1/2 lies further from a multiple of the width than rounding reaches.
        const int row = static_cast<int>((static_cast<float>(at) + 0.5f) * inverse), column = at - row * box.width;
        const int at_y = row < last_row ? row : last_row, at_x = column < last_column ? column : last_column;
        s.key_at[i] = at_y * key_y + at_x * key_x;
        s.value_at[i] = at_y * value_y + at_x * value_x;
    }
}

// to = the dot products of all the warp's pixels and all of the box. 32 source pixels are loaded at once, because the
// warp waits for each turn of loads.
template <typename Element, int packs, int columns>
__device__ __forceinline__ void multiply_box(float (&to)[kRows][columns], const Fragment<packs>& own,
                                             const Element* from, const int* at, int count, const Lane& lane) {
    constexpr int kGroups = packs <= 5 ? 4 : 2;
#pragma unroll 1
    for (int i = 0; i < count; i += 8 * kGroups) {
        unsigned row[kGroups][packs];
#pragma unroll
        for (int j = 0; j < kGroups; ++j) load_row(row[j], moved(from, at[i + 8 * j + lane.group]));
#pragma unroll
        for (int j = 0; j < kGroups; ++j) {
            float sum[4] = {};
            multiply_rows<packs, Element>(sum, own.upper, own.lower, row[j]);
            const int column = i + 8 * j + 2 * lane.quad;
            *reinterpret_cast<float2*>(&to[lane.group][column]) = make_float2(sum[0], sum[1]);
            *reinterpret_cast<float2*>(&to[lane.group + 8][column]) = make_float2(sum[2], sum[3]);
        }
    }
}

// The lane's taps out of a box; those that take no part count as zero.
template <int R, int columns>
__device__ __forceinline__ void pick_taps(float (&to)[kRows][Strip<R>::kTapStride], const float (&from)[kRows][columns],
                                          const HalfWindow<R>& half, const Lane& lane) {
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row) {
        float taps[R + 1];
#pragma unroll
        for (int i = 0; i <= R; ++i) taps[i] = half.has_tap(row, i) ? from[lane.pixel][half.box_index(row, i)] : 0;
        float* line = &to[lane.pixel][(half.first_row + row) * (R + 1)];
#pragma unroll
        for (int i = 0; i <= R; i += 2) *reinterpret_cast<float2*>(line + i) = make_float2(taps[i], taps[i + 1]);
    }
}

// Leaves the offsets of a box and the taps of one slot. Begins and ends with the warp in step.
template <typename Element, int R, int packs>
__device__ __forceinline__ void multiply_slot(const WarpCall<Element, R, packs>& c, int slot, int source,
                                              const Window<R>& w, const WarpBox& box) {
    const PackedAlignArguments& a = c.g.forward;
    const HalfWindow<R> half(w, box, c.lane);
    const int count = box.width * box.height;
    auto& taps = c.place(slot).taps;
    __syncwarp();  // everyone has read what the slot before left
    put_offsets(c.s, a, box, sizeof(Element), c.lane);
    __syncwarp();
    const auto* keys = pixel_at<Element>(a.key, c.tile.b, source, box.left, box.top, c.channel());
    const auto* values = pixel_at<Element>(a.value, c.tile.b, source, box.left, box.top, c.channel());
    multiply_box(c.s.products, c.query, keys, c.s.key_at, count, c.lane);
    __syncwarp();
    pick_taps(taps.key, c.s.products, half, c.lane);
    __syncwarp();
    multiply_box(c.s.products, c.grad_out, values, c.s.value_at, count, c.lane);
    __syncwarp();
    pick_taps(taps.value, c.s.products, half, c.lane);
    __syncwarp();
}

// A row of taps of the lane's pixel.
template <int R>
__device__ __forceinline__ void read_taps(TapRow<R>& to, const typename Strip<R>::Taps& from, const Lane& lane,
                                          int row) {
#pragma unroll
    for (int i = 0; i <= R; i += 2) {
        const float2 key = *reinterpret_cast<const float2*>(&from.key[lane.pixel][row * (R + 1) + i]);
        const float2 value = *reinterpret_cast<const float2*>(&from.value[lane.pixel][row * (R + 1) + i]);
        to.key[i] = key.x;
        to.key[i + 1] = key.y;
        to.value[i] = value.x;
        to.value[i + 1] = value.y;
    }
}

// As for_each_cell of differentiate.h, for the lane's cells.
template <typename Element, int R, int packs, typename Visit>
__device__ __forceinline__ void visit_cells(const WarpCall<Element, R, packs>& c, int slot, const HalfWindow<R>& half,
                                            const Visit& visit) {
    const PackedAlignArguments& a = c.g.forward;
    const float* bias = bias_of(a, c.tile.head, slot);
    const Window<R>& w = half.w;
    TapRow<R> upper;
    const typename Strip<R>::Taps& taps = c.place(slot).taps;
    read_taps(upper, taps, c.lane, half.first_row);
#pragma unroll
    for (int row = 0; row < kHalf<R>; ++row) {
        TapRow<R> lower;
        // The second lane has one row of cells less: what is read below its last row of taps does not count.
        const int below = half.first_row + row + 1;
        read_taps(lower, taps, c.lane, below < R ? below : R);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const int cell_row = half.first_row + row;
            const bool valid = w.cells.hold(cell_row, i);
            const float t = bilinear(w, upper.key[i], upper.key[i + 1], lower.key[i], lower.key[i + 1]);
            const float logit = logit_of(a.logit_scale, t, valid ? bias : nullptr, cell_row * R + i);
            const float value = bilinear(w, upper.value[i], upper.value[i + 1], lower.value[i], lower.value[i + 1]);
            visit(row, i, valid ? logit : kMinusInfinity, valid ? value : 0.f, upper, lower);
        }
        upper = lower;
    }
}

// Leaves what gather_mma.cu must know of the tile in a slot, the same for all heads.
template <typename Element, int R, int packs>
__device__ __forceinline__ void put_place(const WarpCall<Element, R, packs>& c, int slot, const Window<R>& w,
                                          const WarpBox& box) {
    const PackedAlignArguments& a = c.g.forward;
    const std::int64_t at = (c.tile.view * a.N + slot) * c.tiles + c.tile.tile;
    if (!c.lane.second)
        c.g.corners[at * kRows + c.lane.pixel] =
            w.has_valid_cell ? Corner{w.left, w.top} : Corner{kElsewhere, kElsewhere};
    const int last_x = static_cast<int>(a.Ws) - 1, last_y = static_cast<int>(a.Hs) - 1;
    const int right = box.left + box.width - 1, bottom = box.top + box.height - 1;
    if (c.lane.index == 0)
        c.g.boxes[at] = {box.left, box.top, right < last_x ? right : last_x, bottom < last_y ? bottom : last_y};
}

// Finds the softmax; false where a box is too large.
template <typename Element, int R, int packs>
__device__ __forceinline__ bool find_softmax(const WarpCall<Element, R, packs>& c, PixelSoftmax& found) {
    const PackedAlignArguments& a = c.g.forward;
    Softmax softmax;
    float inner = 0;  // not divided by the total yet
    bool fits = true;
    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, c.tile.v, slot);
        if (source < 0) continue;
        const Window<R> w = c.window(slot);
        if (!__any_sync(kWarp, w.has_valid_cell)) continue;
        const WarpBox box(w);
        if (c.g.boxes && c.tile.head == 0 && c.only == kAllPixels) put_place(c, slot, w, box);
        fits = fits && box.fits(kBox<R>);
        if (!fits) continue;
        multiply_slot(c, slot, source, w, box);

        float logits[kHalf<R>][R], values[kHalf<R>][R], highest = softmax.peak;
        visit_cells(c, slot, HalfWindow<R>(w, box, c.lane),
                    [&](int row, int i, float logit, float value, const TapRow<R>&, const TapRow<R>&) {
                        logits[row][i] = logit;
                        values[row][i] = value;
                        highest = logit > highest ? logit : highest;
                    });
        const float other = __shfl_xor_sync(kWarp, highest, kRows);
        highest = other > highest ? other : highest;
        const float shift = highest == kMinusInfinity ? 0.f : highest;  // nothing valid yet: exp(-inf - 0) = 0
        const float keep = exp_of(softmax.peak - shift);
        float part = 0, inner_part = 0;
#pragma unroll
        for (int row = 0; row < kHalf<R>; ++row)
#pragma unroll
            for (int i = 0; i < R; ++i) {
                const float weight = exp_of(logits[row][i] - shift);
                part += weight;
                inner_part += weight * values[row][i];
            }
        softmax.peak = highest;
        softmax.total = softmax.total * keep + (part + __shfl_xor_sync(kWarp, part, kRows));
        inner = inner * keep + (inner_part + __shfl_xor_sync(kWarp, inner_part, kRows));
    }
    found = {softmax.peak == kMinusInfinity ? 0.f : softmax.peak, softmax.log_sum(),
             softmax.total == 0 ? 0.f : inner / softmax.total};
    return fits;
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
