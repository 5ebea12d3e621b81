// Screening on tensor cores with mma.sync: every architecture from sm_80 that has no kernel of its own.
#include "cuda/ptx_mma.h"
#include "prototype_distance/cuda/select.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kThreads = 256;  // 4 warps down the rows, 2 across the prototypes
constexpr int kTile = 128;     // prototypes
constexpr int kStages = 3;
constexpr int kStageBytes = (kTileRows + kTile) * kSlice;
constexpr int kShared = kStages * kStageBytes + kTileRows * int(sizeof(Margin));
static_assert(kShared <= 99 * 1024, "what a block has on sm_86, sm_89 and sm_120");
constexpr int kLists = 8;  // 4 lanes of 2 warps

struct Operands {
    const unsigned char *features, *prototypes;
    const float* offset;
    std::int64_t width;
};

// 16-byte chunk `chunk` of row `row` in a slice; rows differ in where it lies, so that 8 of them meet all banks.
__device__ __forceinline__ int place(int row, int chunk) { return row * kSlice + ((chunk ^ (row & 7)) * 16); }

// One slice of the tile of rows and the tile of prototypes.
__device__ __forceinline__ void load_stage(unsigned char* stage, const Operands& o, std::int64_t row, std::int64_t p,
                                           std::int64_t byte) {
#pragma unroll
    for (int i = 0; i < (kTileRows + kTile) * (kSlice / 16) / kThreads; ++i) {
        const int n = i * kThreads + threadIdx.x, r = n / (kSlice / 16), chunk = n % (kSlice / 16);
        const unsigned char* from =
            r < kTileRows ? o.features + (row + r) * o.width : o.prototypes + (p + r - kTileRows) * o.width;
        cp_async(stage + place(r, chunk), from + byte + chunk * 16);
    }
}

// Adds a slice's products to the warp's 32 x 64.
template <typename T>
__device__ __forceinline__ void multiply(T (&sum)[2][8][4], const unsigned char* stage) {
    using Code = std::conditional_t<std::is_same_v<T, float>, bfloat16, std::int8_t>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned char *rows = stage, *prototypes = stage + kTileRows * kSlice;
#pragma unroll
    for (int step = 0; step < kSlice / 32; ++step) {
        unsigned a[2][4], b[4][4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
            ldmatrix(a[i], rows + place(warp % 4 * 32 + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
        for (int j = 0; j < 4; ++j)
            ldmatrix(b[j],
                     prototypes + place(warp / 4 * 64 + j * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j) mma(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], Code());
    }
}

template <Format format, int kept>
__global__ void __launch_bounds__(kThreads, 1)
    screen_kernel(const __grid_constant__ DistanceArguments a, const Rows rows, const Shape shape) {
    using T = typename Sum<format>::type;
    unsigned char* memory = dynamic_shared();
    Margin* margins = reinterpret_cast<Margin*>(memory + kStages * kStageBytes);
    const Coded& coded = a.bank.coded[int(format)];
    const Operands o{a.work.codes, coded.codes, coded.offset, coded.width};
    const Cut c = cut(count_of(rows), a.P, shape, a.k);
    const int slices = static_cast<int>(o.width / kSlice), all_tiles = static_cast<int>((a.P + kTile - 1) / kTile);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int item = blockIdx.x; item < c.row_tiles * c.segments; item += gridDim.x) {
        const std::int64_t row = std::int64_t(item % c.row_tiles) * kTileRows;
        const int first = item / c.row_tiles * c.tiles, tiles = min(c.tiles, all_tiles - first);
        const int steps = tiles * slices;
        const auto load = [&](int step) {
            if (step < steps)
                load_stage(memory + step % kStages * kStageBytes, o, row, (first + step / slices) * std::int64_t(kTile),
                           std::int64_t(step % slices) * kSlice);
            cp_async_commit();
        };
        __syncthreads();  // the stages are no longer read for an earlier item
        for (int step = 0; step < kStages - 1; ++step) load(step);

        if (threadIdx.x < kTileRows)
            margins[threadIdx.x].start(format, a.work.terms[row + threadIdx.x], *a.bank.stats, a.C);
        __syncthreads();
        const Margin* margin = margins + warp % 4 * 32 + lane / 4;  // of every eighth row
        Nearest<kept> nearest[4];
        unrolled<4>([&](auto i) { nearest[i].start(margin[i * 8].limit()); });
        for (int tile = 0, step = 0; tile < tiles; ++tile) {
            T sum[2][8][4] = {};
            for (int slice = 0; slice < slices; ++slice, ++step) {
                cp_async_wait<kStages - 2>();
                __syncthreads();
                load(step + kStages - 1);
                multiply(sum, memory + step % kStages * kStageBytes);
            }
            const int column = (first + tile) * kTile + warp / 4 * 64 + lane % 4 * 2;
            float2 offset[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) offset[j] = *reinterpret_cast<const float2*>(o.offset + column + j * 8);
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
                // The first tile says what is far, which spares taking most of it.
                if (a.k == 1 && tile == 0) nearest[i].lower(margin[i * 8].needed(least_of_four(least)));
                took = took || least < nearest[i].limit;
                if (least < nearest[i].limit) nearest[i].take(v, least, column);
            });
            if (__any_sync(kWarp, took))
                unrolled<4>([&](auto i) { tighten(nearest[i], margin[i * 8], static_cast<int>(a.k)); });
        }
        unrolled<4>([&](auto i) {
            const std::int64_t list =
                (item * std::int64_t(kTileRows) + warp % 4 * 32 + i * 8 + lane / 4) * kLists + warp / 4 * 4 + lane % 4;
            nearest[i].store(a.work.entries + list * kept, a.work.bound + list);
        });
    }
}

template <Format format, int kept>
void run(const DistanceArguments& a, const Rows& rows, cudaStream_t stream) {
    const Shape shape = shape_mma(format, a.k);
    const std::int64_t items = most_items(rows.most, shape, a.k);
    launch(screen_kernel<format, kept>, dim3(static_cast<unsigned>(items < shape.blocks ? items : shape.blocks)),
           dim3(kThreads), kShared, stream, a, rows, shape);
}

}  // namespace

Shape shape_mma(Format format, std::int64_t k) {
    const bool few = format == Format::bfloat16 && k <= 2;
    const int blocks = few ? resident_blocks(screen_kernel<Format::bfloat16, 4>, kThreads, kShared)
                       : format == Format::bfloat16
                           ? resident_blocks(screen_kernel<Format::bfloat16, 8>, kThreads, kShared)
                           : resident_blocks(screen_kernel<Format::int8, 8>, kThreads, kShared);
    return {kTile, kLists, few ? 4 : 8, blocks, 1};
}

void screen_mma(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream) {
    if (format == Format::int8) return run<Format::int8, 8>(a, rows, stream);
    a.k <= 2 ? run<Format::bfloat16, 4>(a, rows, stream) : run<Format::bfloat16, 8>(a, rows, stream);
}

}  // namespace cuda
}  // namespace vsad
