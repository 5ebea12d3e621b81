// Screening on tensor cores with mma.sync: every architecture from sm_80 that has no kernel of its own.
#include "cuda/ptx_mma.h"
#include "prototype_distance/cuda/candidates.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {
namespace {

constexpr int kThreads = 256;  // 4 warps along the rows, 2 along the prototypes
constexpr int kTile = 128;     // prototypes
constexpr int kStages = 3;
constexpr int kStageBytes = (kTileRows + kTile) * kSliceBytes;
constexpr int kShared = kStages * kStageBytes + kTileRows * int(sizeof(Margin));
static_assert(kShared <= 99 * 1024, "the shared memory per block on sm_86, sm_89 and sm_120");
constexpr int kLists = 8;  // lists of a feature: the 4 lanes of 2 warps that share it

struct Operands {
    const unsigned char *features, *prototypes;
    const float* offset;
    std::int64_t width;
    int slices;  // slices of a row
};

// What a block works on: a row tile from feature `row`, and `tiles` tiles of prototypes from tile `first`.
struct Item {
    std::int64_t row;
    int first, tiles;
};

// The position of a 16-byte chunk of a row in a slice. Chunks are permuted by row, so that 8 rows cover all banks.
__device__ __forceinline__ int chunk_offset(int row, int chunk) {
    return row * kSliceBytes + ((chunk ^ (row & 7)) * 16);
}

// Starts copying slice `step` of an item: step / slices is the tile, step % slices the position within the rows.
__device__ __forceinline__ void load_stage(unsigned char* memory, const Operands& o, const Item& item, int step) {
    unsigned char* stage = memory + step % kStages * kStageBytes;
    const std::int64_t p = (item.first + step / o.slices) * std::int64_t(kTile);
    const std::int64_t byte = std::int64_t(step % o.slices) * kSliceBytes;
#pragma unroll
    for (int i = 0; i < (kTileRows + kTile) * (kSliceBytes / 16) / kThreads; ++i) {
        const int n = i * kThreads + threadIdx.x, r = n / (kSliceBytes / 16), chunk = n % (kSliceBytes / 16);
        const unsigned char* from =
            r < kTileRows ? o.features + (item.row + r) * o.width : o.prototypes + (p + r - kTileRows) * o.width;
        cp_async(stage + chunk_offset(r, chunk), from + byte + chunk * 16);
    }
}

// Adds a slice's products to the warp's 32 x 64 sums.
template <typename T>
__device__ __forceinline__ void multiply(T (&sum)[2][8][4], const unsigned char* stage) {
    using Code = std::conditional_t<std::is_same_v<T, float>, bfloat16, std::int8_t>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned char *rows = stage, *prototypes = stage + kTileRows * kSliceBytes;
#pragma unroll
    for (int step = 0; step < kSliceBytes / 32; ++step) {
        unsigned a[2][4], b[4][4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
            ldmatrix(a[i], rows + chunk_offset(warp % 4 * 32 + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
        for (int j = 0; j < 4; ++j)
            ldmatrix(b[j], prototypes + chunk_offset(warp / 4 * 64 + j * 16 + lane % 8 + lane / 16 * 8,
                                                     step * 2 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j) mma(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], Code());
    }
}

// Selects candidates from a thread's sums of one tile: 4 rows, 16 columns each. `margin` is that of every eighth row.
template <Format format, int kept, typename T>
__device__ __forceinline__ void select(CandidateList<kept> (&lists)[4], const Margin* margin, const T (&sum)[2][8][4],
                                       const float* bank_offset, int column, int k, bool first_tile) {
    float2 offset[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) offset[j] = *reinterpret_cast<const float2*>(bank_offset + column + j * 8);
    bool took = false;
    unrolled<4>([&](auto i) {
        float v[kChunk];
        const float factor = margin[i * 8].factor;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            v[2 * j] = screened<format>(factor, offset[j].x, sum[i / 2][j][i % 2 * 2]);
            v[2 * j + 1] = screened<format>(factor, offset[j].y, sum[i / 2][j][i % 2 * 2 + 1]);
        }
        const float least = least_of(v);
        // the first tile tells what is far, which avoids inserting most of it
        if (k == 1 && first_tile) lists[i].lower_limit(margin[i * 8].limit_for(min_across_feature(least)));
        took = took || least < lists[i].limit;
        if (least < lists[i].limit) lists[i].insert_chunk(v, least, column);
    });
    if (__any_sync(kWarp, took)) unrolled<4>([&](auto i) { tighten(lists[i], margin[i * 8], k); });
}

// Screens one item: the copies of kStages - 1 slices are in flight while one is multiplied.
template <Format format, int kept>
__device__ __forceinline__ void screen_item(const DistanceArguments& a, const Operands& o, const Item& item,
                                            unsigned char* memory, CandidateList<kept> (&lists)[4]) {
    Margin* margins = reinterpret_cast<Margin*>(memory + kStages * kStageBytes);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, steps = item.tiles * o.slices;
    const auto load = [&](int step) {
        if (step < steps) load_stage(memory, o, item, step);
        cp_async_commit();
    };
    __syncthreads();  // the stages are no longer read for an earlier item
    for (int step = 0; step < kStages - 1; ++step) load(step);
    if (threadIdx.x < kTileRows)
        margins[threadIdx.x].start(format, a.work.features[item.row + threadIdx.x], *a.bank.statistics, a.C);
    __syncthreads();
    const Margin* margin = margins + warp % 4 * 32 + lane / 4;
    unrolled<4>([&](auto i) { lists[i].start(margin[i * 8].first_limit()); });
    for (int tile = 0, step = 0; tile < item.tiles; ++tile) {
        typename Accumulator<format>::type sum[2][8][4] = {};
        for (int slice = 0; slice < o.slices; ++slice, ++step) {
            cp_async_wait<kStages - 2>();
            __syncthreads();  // this slice has arrived for all threads, and the stage before it is no longer read
            load(step + kStages - 1);
            multiply(sum, memory + step % kStages * kStageBytes);
        }
        const int column = (item.first + tile) * kTile + warp / 4 * 64 + lane % 4 * 2;
        select<format>(lists, margin, sum, o.offset, column, static_cast<int>(a.k), tile == 0);
    }
}

template <Format format, int kept>
__global__ void __launch_bounds__(kThreads, 1)
    screen_kernel(const __grid_constant__ DistanceArguments a, const FeatureList features, const ScreenShape shape) {
    const QuantizedRows& bank = a.bank.quantized[int(format)];
    const Operands o{a.work.codes, bank.codes, bank.offset, bank.width, static_cast<int>(bank.width / kSliceBytes)};
    const Schedule s = schedule(count_of(features), a.P, shape, a.k);
    const int all_tiles = static_cast<int>((a.P + kTile - 1) / kTile);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int number = blockIdx.x; number < s.row_tiles * s.splits; number += gridDim.x) {
        const int first = number / s.row_tiles * s.tiles;
        const Item item{std::int64_t(number % s.row_tiles) * kTileRows, first, min(s.tiles, all_tiles - first)};
        CandidateList<kept> lists[4];
        screen_item<format>(a, o, item, dynamic_shared(), lists);
        unrolled<4>([&](auto i) {
            const std::int64_t row = number * std::int64_t(kTileRows) + warp % 4 * 32 + i * 8 + lane / 4;
            const std::int64_t list = row * kLists + warp / 4 * 4 + lane % 4;
            lists[i].store(a.work.candidates + list * kept, a.work.bounds + list);
        });
    }
}

template <Format format, int kept>
void run(const DistanceArguments& a, const FeatureList& features, cudaStream_t stream) {
    const ScreenShape shape = shape_mma(format, a.k);
    const std::int64_t items = most_items(features.most, shape, a.k);
    launch(screen_kernel<format, kept>, dim3(static_cast<unsigned>(items < shape.blocks ? items : shape.blocks)),
           dim3(kThreads), kShared, stream, a, features, shape);
}

}  // namespace

ScreenShape shape_mma(Format format, std::int64_t k) {
    const bool few = format == Format::bfloat16 && k <= 2;
    const int blocks = few ? resident_blocks(screen_kernel<Format::bfloat16, 4>, kThreads, kShared)
                       : format == Format::bfloat16
                           ? resident_blocks(screen_kernel<Format::bfloat16, 8>, kThreads, kShared)
                           : resident_blocks(screen_kernel<Format::int8, 8>, kThreads, kShared);
    return {kTile, kLists, few ? 4 : 8, blocks, 1};
}

void screen_mma(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream) {
    if (format == Format::int8) return run<Format::int8, 8>(a, features, stream);
    a.k <= 2 ? run<Format::bfloat16, 4>(a, features, stream) : run<Format::bfloat16, 8>(a, features, stream);
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
