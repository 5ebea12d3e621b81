// Every feature of a list against every prototype, in float32: small problems, and what no certificate settled.
//
// The list's length is read on the device. So that a short list keeps all blocks busy, the bank is cut into pieces; the
// block that ends a row tile's last piece merges them.
#include "prototype_distance/cuda/brute.h"

#include "prototype_distance/cuda/rows.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kThreads = 256;  // 16 x 16, with 4 x 4 pairs each
constexpr int kTile = 64;      // rows, and prototypes
constexpr int kDepth = 16;     // channels at a time, and of one partial sum
constexpr int kPitch = kTile + 4;

struct alignas(16) Tiles {  // keys of 64 bits follow it
    float rows[kDepth][kPitch], prototypes[kDepth][kPitch];
    float squared[kTile][kTile + 1];
    bool last;
};

// Loads kDepth channels of kTile rows, [channel][row]; zeros past the end.
template <typename Element, typename Index>
__device__ __forceinline__ void load_tile(float (&to)[kDepth][kPitch], const Matrix& m, const double* inverse,
                                          Metric metric, std::int64_t count, std::int64_t c, std::int64_t C,
                                          Index index) {
#pragma unroll
    for (int n = threadIdx.x; n < kDepth * kTile; n += kThreads) {
        const int r = n / kDepth, channel = n % kDepth;
        to[channel][r] = r < count && c + channel < C ? Row<Element>(m, inverse, index(r), metric)[c + channel] : 0;
    }
}

// Keeps the k smallest keys in ascending order.
__device__ __forceinline__ void insert(unsigned long long* best, int k, unsigned long long key) {
    int n = k - 1;
    for (; n > 0 && best[n - 1] > key; --n) best[n] = best[n - 1];
    best[n] = key;
}

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1)
    brute_kernel(const __grid_constant__ DistanceArguments a, const Rows rows) {
    Tiles& tiles = *reinterpret_cast<Tiles*>(dynamic_shared());
    unsigned long long* best = reinterpret_cast<unsigned long long*>(dynamic_shared() + sizeof(Tiles));  // [row][k]
    const int count = count_of(rows), k = static_cast<int>(a.k), x = threadIdx.x % 16, y = threadIdx.x / 16;
    const int row_tiles = (count + kTile - 1) / kTile, bank_tiles = static_cast<int>((a.P + kTile - 1) / kTile);
    const int pieces = brute_pieces(row_tiles, bank_tiles, gridDim.x);
    int* arrivals = a.work.counters + kFormats;
    for (int item = blockIdx.x; item < row_tiles * pieces; item += gridDim.x) {
        const int row_tile = item / pieces, piece = item % pieces;
        const std::int64_t first_row = std::int64_t(row_tile) * kTile, row_count = min(kTile, int(count - first_row));
        const int first = int(std::int64_t(bank_tiles) * piece / pieces);
        const int end = int(std::int64_t(bank_tiles) * (piece + 1) / pieces);
        for (int n = threadIdx.x; n < kTile * k; n += kThreads) best[n] = kNothing;
        for (int tile = first; tile < end; ++tile) {
            const std::int64_t p = std::int64_t(tile) * kTile;
            const int bank_count = static_cast<int>(a.P - p < kTile ? a.P - p : kTile);
            float sum[4][4] = {};
            for (std::int64_t c = 0; c < a.C; c += kDepth) {
                __syncthreads();
                load_tile<Element>(tiles.rows, a.features, a.work.inverse, a.metric, row_count, c, a.C,
                                   [&](int r) { return row_at(rows, first_row + r); });
                load_tile<Element>(tiles.prototypes, a.prototypes, a.bank.inverse, a.metric, bank_count, c, a.C,
                                   [&](int r) { return p + r; });
                __syncthreads();
                float part[4][4] = {};
#pragma unroll
                for (int d = 0; d < kDepth; ++d) {
                    const float4 f = *reinterpret_cast<const float4*>(&tiles.rows[d][4 * y]);
                    const float4 q = *reinterpret_cast<const float4*>(&tiles.prototypes[d][4 * x]);
                    const float fs[4] = {f.x, f.y, f.z, f.w}, qs[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
                    for (int i = 0; i < 4; ++i)
#pragma unroll
                        for (int j = 0; j < 4; ++j) {
                            const float difference = fs[i] - qs[j];
                            part[i][j] = fmaf(difference, difference, part[i][j]);
                        }
                }
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j) sum[i][j] += part[i][j];
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) tiles.squared[4 * y + i][4 * x + j] = sum[i][j];
            __syncthreads();
            if (threadIdx.x < row_count) {
                const bool cosine = a.metric == Metric::cosine;
                const bool nowhere = cosine && a.work.inverse[row_at(rows, first_row + threadIdx.x)] < 0;
                unsigned long long* mine = best + threadIdx.x * k;
                for (int j = 0; j < bank_count; ++j) {
                    const bool apart = nowhere || (cosine && a.bank.inverse[p + j] < 0);
                    const float squared = apart ? 2.0f : +tiles.squared[threadIdx.x][j];
                    const unsigned long long key = key_of(squared, static_cast<unsigned>(p + j));
                    if (key < mine[k - 1]) insert(mine, k, key);
                }
            }
        }
        __syncthreads();
        if (pieces > 1) {
            unsigned long long* to = a.work.keys + std::int64_t(item) * kTile * k;
            for (int n = threadIdx.x; n < kTile * k; n += kThreads) to[n] = best[n];
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0) tiles.last = atomicAdd(arrivals + row_tile, 1) == pieces - 1;
            __syncthreads();
            if (!tiles.last) continue;
            __threadfence();
            if (threadIdx.x < row_count)
                for (int other = 0; other < pieces; ++other) {
                    if (other == piece) continue;
                    const unsigned long long* from =
                        a.work.keys + ((std::int64_t(row_tile) * pieces + other) * kTile + threadIdx.x) * k;
                    unsigned long long* mine = best + threadIdx.x * k;
                    for (int n = 0; n < k && __ldcg(from + n) < mine[k - 1]; ++n) insert(mine, k, __ldcg(from + n));
                }
            __syncthreads();
        }
        for (int n = threadIdx.x; n < row_count * k; n += kThreads)
            write_result<Element>(a, row_at(rows, first_row + n / k) * k + n % k, best[n]);
        __syncthreads();
    }
}

std::size_t shared_bytes(std::int64_t k) { return sizeof(Tiles) + std::size_t(kTile) * k * 8; }

}  // namespace

int brute_blocks() { return resident_blocks(brute_kernel<float>, kThreads, shared_bytes(kMostNeighbors)); }

void measure_all(const DistanceArguments& a, const Rows& rows, cudaStream_t stream) {
    with_float_type(a.dtype, [&](auto element) {
        launch(brute_kernel<decltype(element)>, dim3(brute_blocks()), dim3(kThreads), shared_bytes(a.k), stream, a,
               rows);
    });
}

}  // namespace cuda
}  // namespace vsad
