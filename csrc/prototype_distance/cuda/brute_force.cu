// Every listed feature against every prototype, in float32: small problems, and what screening did not certify.
//
// The length of the list is read on the device. So that a short list keeps all blocks busy, the bank is split; the
// block that finishes the last split of a row tile merges them.
#include "prototype_distance/cuda/brute_force.h"

#include "prototype_distance/cuda/rows.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {
namespace {

constexpr int kThreads = 256;  // 16 x 16 threads with 4 x 4 pairs each
constexpr int kTile = 64;      // rows, and prototypes
constexpr int kDepth = 16;     // channels per stage, and per partial sum
constexpr int kPitch = kTile + 4;
static_assert(kTile == kBruteForceRows, "a row tile is what shares a pass");

using Key = unsigned long long;

struct alignas(16) Tiles {  // the keys of the rows, (kTile, k), follow it in shared memory
    float rows[kDepth][kPitch], prototypes[kDepth][kPitch];
    float squared[kTile][kTile + 1];
    bool last;
};

// What a block works on: `count` listed features from `first`, and the bank's tiles from `tile` to `end`.
struct Item {
    int row_tile, split, splits, tile, end;
    std::int64_t first, count;

    __device__ __forceinline__ Item(int number, int splits, int bank_tiles, int features)
        : row_tile(number / splits), split(number % splits), splits(splits) {
        first = std::int64_t(row_tile) * kTile;
        count = min(kTile, int(features - first));
        tile = int(std::int64_t(bank_tiles) * split / splits);
        end = int(std::int64_t(bank_tiles) * (split + 1) / splits);
    }
};

// Loads kDepth channels of kTile rows as [channel][row], with zeros past the end.
template <typename Element, typename Index>
__device__ __forceinline__ void load_tile(float (&to)[kDepth][kPitch], const Matrix& m, const double* inverse_lengths,
                                          Metric metric, std::int64_t count, std::int64_t c, std::int64_t C,
                                          Index index) {
#pragma unroll
    for (int n = threadIdx.x; n < kDepth * kTile; n += kThreads) {
        const int r = n / kDepth, channel = n % kDepth;
        const bool exists = r < count && c + channel < C;
        to[channel][r] = exists ? Row<Element>(m, inverse_lengths, index(r), metric)[c + channel] : 0;
    }
}

// Adds the squared differences of kDepth channels to the thread's 4 x 4 pairs, summed apart first: a sum of C terms
// then rounds about C / 16 times.
__device__ __forceinline__ void add_depth(float (&sum)[4][4], const Tiles& tiles) {
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
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

// Fills tiles.squared with the squared distances of the row tile to the prototypes [p, p + bank_count).
template <typename Element>
__device__ __forceinline__ void measure_tile(const DistanceArguments& a, const FeatureList& features, const Item& item,
                                             std::int64_t p, int bank_count, Tiles& tiles) {
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float sum[4][4] = {};
    for (std::int64_t c = 0; c < a.C; c += kDepth) {
        __syncthreads();  // the tiles are no longer read for earlier channels
        load_tile<Element>(tiles.rows, a.features, a.work.inverse_lengths, a.metric, item.count, c, a.C,
                           [&](int r) { return feature_at(features, item.first + r); });
        load_tile<Element>(tiles.prototypes, a.prototypes, a.bank.inverse_lengths, a.metric, bank_count, c, a.C,
                           [&](int r) { return p + r; });
        __syncthreads();
        add_depth(sum, tiles);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) tiles.squared[4 * y + i][4 * x + j] = sum[i][j];
    __syncthreads();
}

// Keeps the k smallest keys in ascending order. Requires key < best[k - 1].
__device__ __forceinline__ void insert(Key* best, int k, Key key) {
    int n = k - 1;
    for (; n > 0 && best[n - 1] > key; --n) best[n] = best[n - 1];
    best[n] = key;
}

// Inserts a tile's distances into the keys; one thread per row.
__device__ __forceinline__ void insert_tile(const DistanceArguments& a, std::int64_t feature, std::int64_t p,
                                            int bank_count, const Tiles& tiles, Key* mine, int k) {
    const bool cosine = a.metric == Metric::cosine;
    const bool no_direction = cosine && a.work.inverse_lengths[feature] < 0;
    for (int j = 0; j < bank_count; ++j) {
        const bool apart = no_direction || (cosine && a.bank.inverse_lengths[p + j] < 0);
        const float squared = apart ? 2.0f : +tiles.squared[threadIdx.x][j];
        const Key key = key_of(squared, static_cast<unsigned>(p + j));
        if (key < mine[k - 1]) insert(mine, k, key);
    }
}

// Publishes the keys of this split. True in the block that arrives last, whose keys then are those of all splits.
__device__ __forceinline__ bool merge_splits(const DistanceArguments& a, const Item& item, Tiles& tiles, Key* best,
                                             int k) {
    const std::int64_t first_split = std::int64_t(item.row_tile) * item.splits;
    Key* to = a.work.keys + (first_split + item.split) * kTile * k;
    for (int n = threadIdx.x; n < kTile * k; n += kThreads) to[n] = best[n];
    __threadfence();  // the keys are visible before this block arrives
    __syncthreads();
    int* arrivals = a.work.counters + kFormats + item.row_tile;
    if (threadIdx.x == 0) tiles.last = atomicAdd(arrivals, 1) == item.splits - 1;
    __syncthreads();
    if (!tiles.last) return false;
    __threadfence();  // the keys of the others are read after they arrived
    if (threadIdx.x < item.count)
        for (int other = 0; other < item.splits; ++other) {
            if (other == item.split) continue;
            const Key* from = a.work.keys + ((first_split + other) * kTile + threadIdx.x) * k;
            Key* mine = best + threadIdx.x * k;
            for (int n = 0; n < k && __ldcg(from + n) < mine[k - 1]; ++n) insert(mine, k, __ldcg(from + n));
        }
    __syncthreads();
    return true;
}

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1)
    brute_force_kernel(const __grid_constant__ DistanceArguments a, const FeatureList features) {
    Tiles& tiles = *reinterpret_cast<Tiles*>(dynamic_shared());
    Key* best = reinterpret_cast<Key*>(dynamic_shared() + sizeof(Tiles));  // (kTile, k)
    const int count = count_of(features), k = static_cast<int>(a.k);
    const int row_tiles = (count + kTile - 1) / kTile, bank_tiles = static_cast<int>((a.P + kTile - 1) / kTile);
    const int splits = brute_force_splits(row_tiles, bank_tiles, gridDim.x);
    for (int number = blockIdx.x; number < row_tiles * splits; number += gridDim.x) {
        const Item item(number, splits, bank_tiles, count);
        for (int n = threadIdx.x; n < kTile * k; n += kThreads) best[n] = kLastKey;
        for (int tile = item.tile; tile < item.end; ++tile) {
            const std::int64_t p = std::int64_t(tile) * kTile;
            const int bank_count = static_cast<int>(a.P - p < kTile ? a.P - p : kTile);
            measure_tile<Element>(a, features, item, p, bank_count, tiles);
            if (threadIdx.x < item.count)
                insert_tile(a, feature_at(features, item.first + threadIdx.x), p, bank_count, tiles,
                            best + threadIdx.x * k, k);
        }
        __syncthreads();
        if (splits > 1 && !merge_splits(a, item, tiles, best, k)) continue;
        for (int n = threadIdx.x; n < item.count * k; n += kThreads)
            write_result<Element>(a, feature_at(features, item.first + n / k) * k + n % k, best[n]);
        __syncthreads();
    }
}

std::size_t shared_bytes(std::int64_t k) { return sizeof(Tiles) + std::size_t(kTile) * k * sizeof(Key); }

}  // namespace

int brute_force_blocks() { return resident_blocks(brute_force_kernel<float>, kThreads, shared_bytes(kMostNeighbors)); }

void brute_force(const DistanceArguments& a, const FeatureList& features, cudaStream_t stream) {
    with_float_type(a.dtype, [&](auto element) {
        launch(brute_force_kernel<decltype(element)>, dim3(brute_force_blocks()), dim3(kThreads), shared_bytes(a.k),
               stream, a, features);
    });
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
