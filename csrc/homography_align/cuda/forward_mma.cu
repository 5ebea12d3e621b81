// The forward of the half types on tensor cores, for heads of 32, 40 or 64 channels and windows of 3 and 5.
//
// A warp takes 4 x 4 target pixels of a head and, slot by slot, the box of source pixels that their windows touch: 49
// at a scale near one, where the windows by themselves touch 256. All pixels are multiplied with all of the box, which
// costs tensor cores little and loads every tap once; every pixel then picks its window from the scores in shared
// memory, and leaves the weights of its taps there, zero in the rest of the box, for the product with the values. Taps
// come from memory in the order in which products want them: which channel stands where in a product is free. Weights
// are rounded to the dtype, as plain torch does; all sums are float32.
//
// Launch table: windows of 3 and 5, heads of 4, 5 and 8 packs; 8 warps a block, 2 blocks a multiprocessor (1 for 5 with
// 8 packs). An even number of heads: a block has 8 x 8 pixels of two heads, whose channels fill sectors together, else
// 16 x 8 pixels of one.
//
// Arithmetic, counted in the machine code for sm_90a and not measured, for an H200 as in homography_align.cu, bfloat16.
// For B = 8, V = 5, N = 4, 64 x 64, R = 3, 8 heads of 40: memory 419 MB, 98 us. 327,680 warps and slots, each with 4
// steps of 16 box pixels: 44 products of 16 x 8 x 16, 107 us at 60 % of the tensor cores; about 220 wavefronts of L1
// and shared memory, 320 us; L2 gives each block 121 pixels x 160 bytes x 2 a slot, 1.6 GB, 290 us at 5.5 TB/s; some
// 1,570 instructions (220 for the keys, 320 for the values, 120 to find where the box lies, 900 to project, for the
// softmax and to place weights), 570 us, and they bind: 600 to 700 us are expected, 6 to 7 times the memory's, where
// plain instructions would take about 1.2 ms. Two heads of a pixel in one warp would share the projection and the box.
// For V = 16, N = 4, 256 x 256, one head of 64: memory 537 MB, 125 us; some 1,750 instructions, 510 us: 4 to 5 times.
//
// Where a box is too large, where H minifies or a horizon is near, or where a sum is not finite, as zero times infinity
// in a box would make it, the warp's pixels are done again with ordinary instructions.
#include "cuda/ptx.h"
#include "cuda/ptx_mma.h"
#include "homography_align/cuda/attend.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kWarps = kThreads / 32, kSide = 4, kRows = kSide * kSide;  // a warp's pixels
constexpr int kNarrowHead = 4, kHead = 5, kWideHead = 8;                 // in packs of 8 channels

template <int R>
constexpr int kBox = R == 3 ? 96 : 128;  // source pixels

// A warp's part of shared memory. Strides are chosen so that the lanes of a product read and write different banks.
template <typename Element, int R>
struct Strip {
    union {
        float scores[kRows][kBox<R> + 8];
        unsigned weights[kRows][kBox<R> / 2 + 4];  // of two source pixels each
    };
    int key_at[kBox<R>], value_at[kBox<R>];  // where the box's pixels lie
};

template <int n>
struct Words {
    unsigned word[n];
};
template <int n, typename Element>
__device__ __forceinline__ Words<n> load_words(const Element* from) {
    Words<n> to;
    if constexpr (n == 4) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
        to = {v.x, v.y, v.z, v.w};
    } else if constexpr (n == 2) {
        const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
        to = {v.x, v.y};
    } else {
        to = {__ldg(reinterpret_cast<const unsigned*>(from))};
    }
    return to;
}

template <int n>
struct Number {
    VSAD_HD constexpr operator int() const { return n; }
};

// Calls visit(first pack, packs), both constants, for pieces of `most` packs and then of less, powers of two.
template <int packs, int most, int first = 0, typename Visit>
__device__ __forceinline__ void for_each_piece(const Visit& visit) {
    if constexpr (packs - first >= most) {
        visit(Number<first>(), Number<most>());
        for_each_piece<packs, most, first + most>(visit);
    } else if constexpr (packs > first) {
        for_each_piece<packs, most / 2, first>(visit);
    }
}

// The channels of a row that this lane holds for the products with the box: n words of a piece of n packs, from channel
// 2 n (lane % 4) on.
template <int packs, typename Element>
__device__ __forceinline__ void load_row(unsigned (&to)[packs], const Element* from) {
    const int quad = threadIdx.x % 4;
    for_each_piece<packs, 4>([&](auto first, auto n) {
        const Words<n> words = load_words<n>(from + 8 * first + 2 * n * quad);
#pragma unroll
        for (int i = 0; i < n; ++i) to[first + i] = words.word[i];
    });
}

// score (16 x 8) of the warp's pixels and eight of the box.
template <int packs, typename Element>
__device__ __forceinline__ void multiply_rows(float (&score)[4], const unsigned (&upper)[packs],
                                              const unsigned (&lower)[packs], const unsigned (&key)[packs]) {
#pragma unroll
    for (int i = 0; i + 1 < packs; i += 2)
        mma(score, {upper[i], lower[i], upper[i + 1], lower[i + 1]}, key[i], key[i + 1], Element{});
    if constexpr (packs % 2) mma(score, {upper[packs - 1], lower[packs - 1], 0, 0}, key[packs - 1], 0, Element{});
}

// The value channels of four box pixels as the columns of products. A piece of n packs gives n products; lane 4 g + j
// holds channels n g to n g + n - 1 of the pixels 2 j, 2 j + 1, 2 j + 8 and 2 j + 9.
template <typename Element, int packs>
__device__ __forceinline__ void add_values(float (&sum)[packs][4], const unsigned (&weights)[4],
                                           const Element* const (&from)[4]) {
    const int group = threadIdx.x % 32 / 4;
    for_each_piece<packs, 8>([&](auto first, auto n) {
        if constexpr (n == 1) {
            unsigned half[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                half[i] = __ldg(reinterpret_cast<const unsigned short*>(from[i] + 8 * first + group));
            mma(sum[first], weights, lower_halves(half[0], half[1]), lower_halves(half[2], half[3]), Element{});
        } else {
            Words<n / 2> words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) words[i] = load_words<n / 2>(from[i] + 8 * first + n * group);
#pragma unroll
            for (int i = 0; i < n / 2; ++i) {
                const unsigned a = words[0].word[i], b = words[1].word[i], c = words[2].word[i], d = words[3].word[i];
                mma(sum[first + 2 * i], weights, lower_halves(a, b), lower_halves(c, d), Element{});
                mma(sum[first + 2 * i + 1], weights, upper_halves(a, b), upper_halves(c, d), Element{});
            }
        }
    });
}

// Writes factor * sum of one of the two rows of pixels that a lane holds sums of: 2 n channels of a piece of n packs.
template <typename Element, int packs>
__device__ __forceinline__ void store_row(Element* to, const float (&sum)[packs][4], int row, float factor) {
    const int quad = threadIdx.x % 4;
    for_each_piece<packs, 8>([&](auto first, auto n) {
        float values[2 * n];
#pragma unroll
        for (int i = 0; i < n; ++i) {
            values[i] = factor * (row ? sum[first + i][2] : sum[first + i][0]);
            values[n + i] = factor * (row ? sum[first + i][3] : sum[first + i][1]);
        }
        store_pack<2 * n>(to + 8 * first + 2 * n * quad, values);
    });
}

template <typename Element>
__device__ __forceinline__ void put_half(unsigned* words, int at, float value) {
    reinterpret_cast<Element*>(words)[at] = narrow<Element>(value);
}

// Out of line: its registers are not the others' concern.
template <typename Element, int R>
__device__ __noinline__ void attend_again(const AlignArguments& a, int b, int v, int head, int first_x, int first_y) {
#pragma unroll 1
    for (int i = threadIdx.x % 32 / 8; i < kRows; i += 4)
        attend<Element, R, 8>(a, b, v, head, 0, first_x + i % kSide, first_y + i / kSide);
}

template <typename Element, int R, int packs>
__global__ void __launch_bounds__(kThreads, R == 3          ? 2
                                            : packs > kHead ? 1
                                                            : kSharing)
    mma_kernel(const __grid_constant__ AlignArguments a, int tiles, int tiles_across, int together) {
    constexpr int kHalf = (R + 1) / 2;  // rows of taps of each of the two lanes that share a pixel's softmax
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
    // `together` neighbouring heads of a pixel share a block: 1 or 2. Their warps lie 4 or 2 beside each other.
    const int groups = a.heads / together, head = blockIdx.x % groups * together + warp % together;
    const int tile = blockIdx.x / groups % tiles, view = blockIdx.x / groups / tiles;
    const int V = static_cast<int>(a.V), b = view / V, v = view % V, place = warp / together;
    const int wide = together == 1 ? 4 : 2;
    const int first_x = (tile % tiles_across * wide + place % wide) * kSide;
    const int first_y = (tile / tiles_across * 2 + place / wide) * kSide;
    if (first_x >= a.W || first_y >= a.H) return;
    const int channel = head * packs * 8;
    Strip<Element, R>& s = reinterpret_cast<Strip<Element, R>*>(dynamic_shared())[warp];

    unsigned upper[packs] = {}, lower[packs] = {};  // query of the pixels `group` and `group` + 8
    const int x = first_x + group % kSide, upper_y = first_y + group / kSide, lower_y = upper_y + 2;
    const auto row_of = [&](const AlignImage& image, int row_y) {
        return reinterpret_cast<Element*>(image.data) + b * image.batch + v * image.view + row_y * image.y +
               x * image.x + channel;
    };
    const bool has_upper = x < a.W && upper_y < a.H, has_lower = x < a.W && lower_y < a.H;
    if (has_upper) load_row(upper, row_of(a.query, upper_y));
    if (has_lower) load_row(lower, row_of(a.query, lower_y));

    // Two lanes share a pixel's softmax; the second has the lower rows.
    const int pixel = lane % kRows, second = lane / kRows, first_row = second * kHalf;
    const int own_x = first_x + pixel % kSide, own_y = first_y + pixel / kSide;
    const bool exists = own_x < a.W && own_y < a.H;
    const float nothing = -__builtin_inff(), scale = a.scale * kLog2E;  // logits are to the base 2
    float peak = nothing, total = 0, sum[packs][4] = {};
    bool again = false;
    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, v, slot);
        if (source < 0) continue;
        const Window<R> w(a, homography_of(a, b, v, slot), own_x, own_y, exists);
        if (!__any_sync(kWarp, w.useful)) continue;
        constexpr int far = 0x3fffffff;
        const int left = __reduce_min_sync(kWarp, w.useful ? w.left + w.cells.col_begin : far);
        const int top = __reduce_min_sync(kWarp, w.useful ? w.top + w.cells.row_begin : far);
        const int right = __reduce_max_sync(kWarp, w.useful ? w.left + w.cells.col_end : -far);
        const int bottom = __reduce_max_sync(kWarp, w.useful ? w.top + w.cells.row_end : -far);
        const int width = right - left + 1, height = bottom - top + 1;
        again = width > kBox<R> || height > kBox<R> || width * height > kBox<R>;
        if (again) break;
        const int count = width * height, steps = (count + 15) / 16;

        // beyond the border the border's pixels repeat, and beyond the box its last
        for (int i = lane; i < 16 * steps; i += 32) {
            const int at = i < count ? i : count - 1, row = at / width, column = at - row * width;
            const int last_row = static_cast<int>(a.Hs) - 1 - top, last_column = static_cast<int>(a.Ws) - 1 - left;
            const int at_y = row < last_row ? row : last_row, at_x = column < last_column ? column : last_column;
            s.key_at[i] = at_y * static_cast<int>(a.key.y) + at_x * static_cast<int>(a.key.x);
            s.value_at[i] = at_y * static_cast<int>(a.value.y) + at_x * static_cast<int>(a.value.x);
        }
        __syncwarp();
        const auto corner = [&](const AlignImage& image) {
            return reinterpret_cast<const Element*>(image.data) + b * image.batch + source * image.view +
                   top * image.y + left * image.x + channel;
        };
        const Element *keys = corner(a.key), *values = corner(a.value);
#pragma unroll 2
        for (int i = 0; i < 2 * steps; ++i) {
            unsigned key[packs];
            load_row(key, keys + s.key_at[8 * i + group]);
            float score[4] = {};
            multiply_rows<packs, Element>(score, upper, lower, key);
            *reinterpret_cast<float2*>(&s.scores[group][8 * i + 2 * quad]) = make_float2(score[0], score[1]);
            *reinterpret_cast<float2*>(&s.scores[group + 8][8 * i + 2 * quad]) = make_float2(score[2], score[3]);
        }
        __syncwarp();

        // the cells of this lane's rows; what it does not have is never valid
        const int window_at = (w.top - top + first_row) * width + w.left - left;
        const float* bias = a.bias ? a.bias + bias_at(a, head, slot) + first_row * R : nullptr;
        float weights[kHalf][R + 1], mixed[R], highest = peak;
        const auto mix_row = [&](float (&to)[R], int row) {
            float t[R + 1];
#pragma unroll
            for (int i = 0; i <= R; ++i)
                t[i] = w.has_row(first_row + row) && w.has_column(i) ? s.scores[pixel][window_at + row * width + i] : 0;
#pragma unroll
            for (int i = 0; i < R; ++i) to[i] = mix(w.fx, t[i], t[i + 1]);
        };
        float cells[kHalf][R];
        mix_row(mixed, 0);
#pragma unroll
        for (int row = 0; row < kHalf; ++row) {
            float next[R];
            mix_row(next, row + 1);
#pragma unroll
            for (int i = 0; i < R; ++i) {
                const bool valid = w.cells.hold(first_row + row, i);
                const float logit =
                    scale * mix(w.fy, mixed[i], next[i]) + (bias && valid ? kLog2E * bias[row * R + i] : 0.f);
                cells[row][i] = valid ? logit : nothing;
                highest = cells[row][i] > highest ? cells[row][i] : highest;
                mixed[i] = next[i];
            }
        }
        const float other_peak = __shfl_xor_sync(kWarp, highest, kRows);
        highest = other_peak > highest ? other_peak : highest;
        const float shift = highest == nothing ? 0.f : highest;  // nothing valid yet: exp(-inf - 0) = 0
        const float keep = exp2f(peak - shift);
        float part = 0;
#pragma unroll
        for (int row = 0; row < kHalf; ++row) {
#pragma unroll
            for (int i = 0; i < R; ++i) part += cells[row][i] = exp2f(cells[row][i] - shift);
            spread<R>(weights[row], cells[row], w.fx);
        }
        peak = highest;
        total = total * keep + part + __shfl_xor_sync(kWarp, part, kRows);
        // from cells to taps: the first of the second lane's rows gets from the last of the first's cells
        float above[R + 1];
#pragma unroll
        for (int i = 0; i <= R; ++i) {
            const float from = __shfl_sync(kWarp, weights[kHalf - 1][i], pixel);
            above[i] = second ? from : 0.f;
        }
#pragma unroll
        for (int row = 0; row < kHalf; ++row)
#pragma unroll
            for (int i = 0; i <= R; ++i) {
                const float below = weights[row][i];
                weights[row][i] = mix(w.fy, below, above[i]);
                above[i] = below;
            }

        const float keep_upper = __shfl_sync(kWarp, keep, group), keep_lower = __shfl_sync(kWarp, keep, group + 8);
#pragma unroll
        for (int i = 0; i < packs; ++i) {
            sum[i][0] *= keep_upper;
            sum[i][1] *= keep_upper;
            sum[i][2] *= keep_lower;
            sum[i][3] *= keep_lower;
        }
        __syncwarp();  // all have read the scores, which the weights overwrite
        for (int i = second; i < 2 * steps; i += 2)
            *reinterpret_cast<uint4*>(&s.weights[pixel][4 * i]) = make_uint4(0, 0, 0, 0);
        __syncwarp();
#pragma unroll
        for (int row = 0; row < kHalf; ++row)
#pragma unroll
            for (int i = 0; i <= R; ++i)
                if (w.has_row(first_row + row) && w.has_column(i))
                    put_half<Element>(s.weights[pixel], window_at + row * width + i, weights[row][i]);
        __syncwarp();
#pragma unroll 1
        for (int i = 0; i < steps; ++i) {
            const unsigned four[4] = {s.weights[group][8 * i + quad], s.weights[group + 8][8 * i + quad],
                                      s.weights[group][8 * i + 4 + quad], s.weights[group + 8][8 * i + 4 + quad]};
            const int2 near = *reinterpret_cast<const int2*>(&s.value_at[16 * i + 2 * quad]);
            const int2 next = *reinterpret_cast<const int2*>(&s.value_at[16 * i + 8 + 2 * quad]);
            const Element* const from[4] = {values + near.x, values + near.y, values + next.x, values + next.y};
            add_values<Element>(sum, four, from);
        }
        __syncwarp();
    }
    if (!again) {
        bool finite = true;
#pragma unroll
        for (int i = 0; i < packs; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) finite = finite && sum[i][j] - sum[i][j] == 0;
        again = !__all_sync(kWarp, finite);
    }
    if (again) return attend_again<Element, R>(a, b, v, head, first_x, first_y);
    if (exists && !second)
        a.lse[number_at(a, b, v, head, own_x, own_y)] = total == 0 ? nothing : kLn2 * (peak + log2f(total));
    const float inverse = total == 0 ? 0.f : 1 / total;
    const float of_upper = __shfl_sync(kWarp, inverse, group), of_lower = __shfl_sync(kWarp, inverse, group + 8);
    if (has_upper) store_row<Element>(row_of(a.out, upper_y), sum, 0, of_upper);
    if (has_lower) store_row<Element>(row_of(a.out, lower_y), sum, 1, of_lower);
}

template <typename Element, int packs>
void forward(const AlignArguments& a, cudaStream_t stream) {
    const int together = a.heads % 2 ? 1 : 2, wide = (together == 1 ? 4 : 2) * kSide, high = 2 * kSide;
    const std::int64_t across = (a.W + wide - 1) / wide, tiles = across * ((a.H + high - 1) / high);
    const dim3 grid(blocks(a.B * a.V * tiles * (a.heads / together)));
    const auto start = [&](auto R) {
        launch(mma_kernel<Element, R, packs>, grid, dim3(kThreads), kWarps * sizeof(Strip<Element, R>), stream, a,
               static_cast<int>(tiles), static_cast<int>(across), together);
    };
    if (a.window == 3) start(std::integral_constant<int, 3>());
    if (a.window == 5) start(std::integral_constant<int, 5>());
}

}  // namespace

bool homography_align_forward_mma(const AlignArguments& a, cudaStream_t stream) {
    const bool fits = a.key_packs == a.value_packs && (a.window == 3 || a.window == 5) &&
                      (a.dtype == Scalar::bfloat16 || a.dtype == Scalar::float16);
    const auto near = [](const AlignImage& t) {  // offsets within a box fit 32 bits
        constexpr std::int64_t most = 1 << 23;
        return t.y < most && t.y > -most && t.x < most && t.x > -most;
    };
    if (!fits || !near(a.key) || !near(a.value)) return false;
    const auto with = [&](auto element) {
        using Element = decltype(element);
        if (a.key_packs == kNarrowHead) return forward<Element, kNarrowHead>(a, stream), true;
        if (a.key_packs == kHead) return forward<Element, kHead>(a, stream), true;
        if (a.key_packs == kWideHead) return forward<Element, kWideHead>(a, stream), true;
        return false;
    };
    return a.dtype == Scalar::bfloat16 ? with(bfloat16{}) : with(float16{});
}

}  // namespace cuda
}  // namespace vsad
