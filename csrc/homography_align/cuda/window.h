// One pixel's window in a source view, and the steps that all kernels of homography_align take with it.
//
// kLanes lanes share a pixel and a head; lane l holds the packs l, l + kLanes, ... of 16 bytes of channels. Taps and
// cells go by in rows: a row of taps is multiplied, its neighbours in a row are mixed, and two such rows are the cells
// between them. So few numbers live at once, and any window takes the same short code.
#pragma once
#include "cuda/device.h"
#include "homography_align/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// Where the compiler fits the larger kernels into 128 registers, so that two blocks share a multiprocessor; elsewhere
// they would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
constexpr int kSharing = 2;
#else
constexpr int kSharing = 1;
#endif

constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f;

template <typename Element>
constexpr int kPack = kPackBytes / sizeof(Element);  // channels
// Packs of a lane in registers. Eight lanes are those who do a half type's pixels again.
template <typename Element, int kLanes>
constexpr int kHeld = kLanes == 8            ? 1
                      : sizeof(Element) == 4 ? 3
                                             : 2;

template <typename Element>
__device__ __forceinline__ void unpack(const uint4& pack, float (&to)[kPack<Element>]) {
    const unsigned words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(Element) == 4) {
            to[i] = bit_cast<float>(words[i]);
        } else {
            to[2 * i] = widen(Element{static_cast<std::uint16_t>(words[i])});
            if constexpr (std::is_same_v<Element, bfloat16>)
                to[2 * i + 1] = bit_cast<float>(words[i] & 0xffff0000u);
            else
                to[2 * i + 1] = widen(Element{static_cast<std::uint16_t>(words[i] >> 16)});
        }
    }
}

template <typename Element>
__device__ __forceinline__ uint4 load_packed(const Element* from) {
    return __ldg(reinterpret_cast<const uint4*>(from));
}

// Keeps the compiler from unpacking what it holds once and for all: the registers are needed.
__device__ __forceinline__ uint4 still_packed(uint4 pack) {
    asm volatile("" : "+r"(pack.x), "+r"(pack.y), "+r"(pack.z), "+r"(pack.w));
    return pack;
}

template <typename Element>
__device__ __forceinline__ float dot(const float (&own)[kPack<Element>], const uint4& pack, float sum) {
    float x[kPack<Element>];
    unpack<Element>(pack, x);
#pragma unroll
    for (int i = 0; i < kPack<Element>; ++i) sum += own[i] * x[i];
    return sum;
}

template <typename Element>
__device__ __forceinline__ void add_scaled(float (&sum)[kPack<Element>], float weight, const uint4& pack) {
    float x[kPack<Element>];
    unpack<Element>(pack, x);
#pragma unroll
    for (int i = 0; i < kPack<Element>; ++i) sum[i] += weight * x[i];
}

// The sums over a pixel's lanes, in all of them. Halves change places, so n sums take n shuffles more or less, not
// n log2(lanes); the lanes are the lowest bits of the thread's number.
template <int lanes, int n>
__device__ __forceinline__ void sum_over_lanes(float (&t)[n]) {
    if constexpr (lanes > 1 && n % 2 == 0) {
        const bool upper = threadIdx.x & (lanes / 2);
        float half[n / 2];
#pragma unroll
        for (int i = 0; i < n / 2; ++i) {
            const float other = __shfl_xor_sync(kWarp, upper ? t[i] : t[i + n / 2], lanes / 2);
            half[i] = (upper ? t[i + n / 2] : t[i]) + other;
        }
        sum_over_lanes<lanes / 2>(half);
#pragma unroll
        for (int i = 0; i < n / 2; ++i) {
            const float other = __shfl_xor_sync(kWarp, half[i], lanes / 2);
            t[i] = upper ? other : half[i];
            t[i + n / 2] = upper ? half[i] : other;
        }
    } else if constexpr (lanes > 1) {
#pragma unroll
        for (int i = 0; i < n; ++i) t[i] += __shfl_xor_sync(kWarp, t[i], lanes / 2);
        sum_over_lanes<lanes / 2>(t);
    }
}

// Tiles of target pixels: a warp holds pixels beside and above each other, so that its taps meet.
template <int kLanes>
struct Tile {
    static constexpr int kWarpWidth = kLanes == 4 ? 4 : 2, kWarpHeight = 32 / kLanes / kWarpWidth;
    static constexpr int kWidth = 2 * kWarpWidth, kHeight = 4 * kWarpHeight, kPixels = kWidth * kHeight;
    static_assert(kPixels * kLanes == kThreads, "one pixel for kLanes threads");

    static std::int64_t across(std::int64_t W) { return (W + kWidth - 1) / kWidth; }
    static std::int64_t count(std::int64_t H, std::int64_t W) { return across(W) * ((H + kHeight - 1) / kHeight); }
    // Where the i-th pixel of the tile lies in it.
    static __device__ __forceinline__ int x(int i) {
        return i / (32 / kLanes) % 2 * kWarpWidth + i % (32 / kLanes) % kWarpWidth;
    }
    static __device__ __forceinline__ int y(int i) {
        return i / (32 / kLanes) / 2 * kWarpHeight + i % (32 / kLanes) / kWarpWidth;
    }
};

// The source view in a slot; -1 where it is empty.
__device__ __forceinline__ int source_of(const AlignArguments& a, int v, int slot) {
    const std::int64_t source = a.neighbors[v * a.N + slot];
    return source >= 0 && source < a.S ? static_cast<int>(source) : -1;
}
__device__ __forceinline__ const float* homography_of(const AlignArguments& a, int b, int v, int slot) {
    return a.homography + b * a.homography_batch + (v * a.N + slot) * 9;
}
__device__ __forceinline__ std::int64_t bias_at(const AlignArguments& a, int head, int slot) {
    return (head * a.N + slot) * a.window * a.window;
}
// Where a pixel's number stands in (B, V, heads, H, W).
__device__ __forceinline__ std::int64_t number_at(const AlignArguments& a, int b, int v, int head, int x, int y) {
    return (((b * a.V + v) * a.heads + head) * a.H + y) * a.W + x;
}

// The window of a target pixel in a source view. Where it is of no use no row and no column takes part.
template <int R>
struct Window {
    Projection<float> point;
    float fx, fy;
    int left, top;  // the first tap
    Cells cells;
    bool useful;

    __device__ __forceinline__ Window(const AlignArguments& a, const float* H, int x, int y, bool exists) {
        constexpr int radius = R / 2;
        point = project(H, static_cast<float>(x), static_cast<float>(y));
        const float last_x = static_cast<float>(a.Ws - 1), last_y = static_cast<float>(a.Hs - 1);
        // NaN fails every comparison
        useful = exists && point.Z > 0 && point.x >= -radius && point.x <= last_x + radius && point.y >= -radius &&
                 point.y <= last_y + radius;
        if (!useful) point = {0, 0, 1};
        cells = valid_cells(point.x, point.y, radius, static_cast<int>(a.Hs), static_cast<int>(a.Ws));
        useful = useful && cells.row_begin < cells.row_end && cells.col_begin < cells.col_end;
        if (!useful) cells = {1, -1, 1, -1};
        const float floor_x = round_down(point.x), floor_y = round_down(point.y);
        fx = point.x - floor_x;
        fy = point.y - floor_y;
        left = static_cast<int>(floor_x) - radius;
        top = static_cast<int>(floor_y) - radius;
    }
    // Taps that belong to a valid cell; only they may be read.
    __device__ __forceinline__ bool has_row(int a) const { return a >= cells.row_begin && a <= cells.row_end; }
    __device__ __forceinline__ bool has_column(int b) const { return b >= cells.col_begin && b <= cells.col_end; }
};

// The rows of taps of a window in one tensor, from one head's first channel on. Beyond the border the border's pixels
// repeat: there every weight is zero, and the slope across the border is zero too.
template <typename Element, int R>
struct Taps {
    const Element* first;
    std::int64_t row;  // stride
    int column, last_row, last_column;

    __device__ __forceinline__ Taps(const AlignImage& image, int b, int view, int channel, const AlignArguments& a,
                                    const Window<R>& w)
        : first(reinterpret_cast<const Element*>(image.data) + b * image.batch + view * image.view + w.top * image.y +
                w.left * image.x + channel),
          row(image.y),
          column(static_cast<int>(image.x)),
          last_row(static_cast<int>(a.Hs) - 1 - w.top),
          last_column(static_cast<int>(a.Ws) - 1 - w.left) {}
    __device__ __forceinline__ const Element* line(int a) const { return first + (a < last_row ? a : last_row) * row; }
    __device__ __forceinline__ int offset(int b) const { return (b < last_column ? b : last_column) * column; }
};

// The packs of a pixel's row that a lane keeps; more are read again when they are needed.
template <typename Element, int kLanes>
struct Row {
    const Element* from;
    int packs;
    uint4 held[kHeld<Element, kLanes>];

    __device__ __forceinline__ Row(const AlignImage& image, int b, int view, int x, int y, int channel, int packs,
                                   bool exists)
        : from(reinterpret_cast<const Element*>(image.data) + b * image.batch + view * image.view + y * image.y +
               x * image.x + channel),
          packs(exists ? packs : 0) {
#pragma unroll
        for (int j = 0; j < kHeld<Element, kLanes>; ++j) held[j] = pack(lane() + j * kLanes);
    }
    static __device__ __forceinline__ int lane() { return threadIdx.x % kLanes; }
    __device__ __forceinline__ uint4 pack(int i) const {
        return i < packs ? load_packed(from + i * kPack<Element>) : make_uint4(0, 0, 0, 0);
    }
};

// t[b] += <own, tap b of a line> for taps that take part.
template <typename Element, int R>
__device__ __forceinline__ void dot_pack(float (&t)[R + 1], const uint4& pack, const Element* line,
                                         const Taps<Element, R>& taps, const Window<R>& w) {
    float own[kPack<Element>];
    unpack<Element>(pack, own);
#pragma unroll
    for (int b = 0; b <= R; ++b)
        if (w.has_column(b)) t[b] = dot<Element>(own, load_packed(line + taps.offset(b)), t[b]);
}

// t[b] = <row, tap (a, b)>; zero for taps that take no part.
template <typename Element, int kLanes, int R>
__device__ __forceinline__ void dot_row(float (&t)[R + 1], const Row<Element, kLanes>& row,
                                        const Taps<Element, R>& taps, const Window<R>& w, int a) {
    const int lane = row.lane();
#pragma unroll
    for (int b = 0; b <= R; ++b) t[b] = 0;
    if (w.has_row(a)) {
        const Element* line = taps.line(a);
#pragma unroll
        for (int j = 0; j < kHeld<Element, kLanes>; ++j) {
            const int pack = lane + j * kLanes;
            if (pack >= row.packs) break;
            dot_pack(t, still_packed(row.held[j]), line + pack * kPack<Element>, taps, w);
        }
        for (int pack = lane + kHeld<Element, kLanes> * kLanes; pack < row.packs; pack += kLanes)
            dot_pack(t, row.pack(pack), line + pack * kPack<Element>, taps, w);
    }
    sum_over_lanes<kLanes>(t);
}

// The sums of a lane's packs, of `packs` in all; the first of them is `begin`.
template <typename Element, int kLanes>
struct Sums {
    float sum[kHeld<Element, kLanes>][kPack<Element>] = {};
    int begin, packs;

    __device__ __forceinline__ Sums(int begin, int packs) : begin(begin), packs(packs) {}
    // Calls visit(number of a pack, its sums).
    template <typename Visit>
    __device__ __forceinline__ void for_each(const Visit& visit) {
        const int lane = threadIdx.x % kLanes;
#pragma unroll
        for (int j = 0; j < kHeld<Element, kLanes>; ++j) {
            const int pack = begin + lane + j * kLanes;
            if (pack < packs) visit(pack, sum[j]);
        }
    }
    // Adds weights[b] * tap (a, b) of all taps that take part.
    template <int R>
    __device__ __forceinline__ void add_row(const float (&weights)[R + 1], const Taps<Element, R>& taps,
                                            const Window<R>& w, int a) {
        if (!w.has_row(a)) return;
        const Element* line = taps.line(a);
        for_each([&](int pack, float (&to)[kPack<Element>]) {
#pragma unroll
            for (int b = 0; b <= R; ++b)
                if (w.has_column(b))
                    add_scaled<Element>(to, weights[b], load_packed(line + pack * kPack<Element> + taps.offset(b)));
        });
    }
    __device__ __forceinline__ void store(Element* to, float factor) {
        for_each([&](int pack, float (&values)[kPack<Element>]) {
#pragma unroll
            for (int i = 0; i < kPack<Element>; ++i) values[i] *= factor;
            store_pack<kPack<Element>>(to + pack * kPack<Element>, values);
        });
    }
};

// What every tap of a row receives from the cells of one row.
template <int R>
__device__ __forceinline__ void spread(float (&taps)[R + 1], const float (&cells)[R], float fx) {
#pragma unroll
    for (int b = 0; b <= R; ++b) taps[b] = mix(fx, b < R ? cells[b] : 0.f, b > 0 ? cells[b - 1] : 0.f);
}

template <int n>
__device__ __forceinline__ void mix_rows(float (&to)[n], float f, const float (&a)[n], const float (&b)[n]) {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = mix(f, a[i], b[i]);
}

template <typename Element, int kLanes>
constexpr int kSlicePacks = kHeld<Element, kLanes> * kLanes;

// How many blocks share the channels of a head; each finds all weights for itself.
template <typename Element, int kLanes>
int slices(int packs) {
    constexpr int of_slice = kSlicePacks<Element, kLanes>;
    return packs > of_slice ? (packs + of_slice - 1) / of_slice : 1;
}

inline unsigned blocks(std::int64_t count) {
    if (count > 0x7fffffff) throw std::invalid_argument("homography_align: more than 2^31 blocks");
    return static_cast<unsigned>(count);
}

// f(window's size as a constant).
template <typename F>
void with_window(int window, F f) {
    switch (window) {
        case 1:
            return f(std::integral_constant<int, 1>());
        case 3:
            return f(std::integral_constant<int, 3>());
        case 5:
            return f(std::integral_constant<int, 5>());
        case 7:
            return f(std::integral_constant<int, 7>());
        default:
            throw std::invalid_argument("homography_align: window must be at most 7 and odd");
    }
}

}  // namespace
}  // namespace cuda
}  // namespace vsad
