// A round of greedy_coreset up to its picks: which points can be picked next, how far they are from one another, and
// the greedy among them alone.
#pragma once
#include "cuda/greedy_coreset_rows.h"

namespace vsad {
namespace cuda {
namespace coreset {

constexpr int kTile = 128;  // points of a block that are compared with a round's picks at once
constexpr int kRowBytes = 2 * kChunk;

// `columns` warps-wide fragments of 8 picks for each of four warps: 32 * columns candidates at most.
template <int columns, int stages>
struct Shape {
    static constexpr int kColumns = columns, kStages = stages, kPicks = 32 * columns;
    static constexpr int kPointBytes = kTile * kRowBytes, kPickBytes = kPicks * kRowBytes;
    static constexpr int kDistanceBytes = kPicks * kPicks * 4, kStagedBytes = stages * (kPointBytes + kPickBytes);
    static constexpr int kRegion = kStagedBytes > kDistanceBytes ? kStagedBytes : kDistanceBytes;
};

template <typename Shape>
struct Shared {
    // The offers of all blocks and the keys among them that count; then the candidates' distances; then what is staged.
    alignas(128) unsigned char region[Shape::kRegion];
    Key candidates[Shape::kPicks];  // by index
    Key highest[2][kWarps];         // of each warp
    Key best[2][kTile];             // of a tile's points: which pick to measure next
    float offsets[Shape::kPicks];
    float thresholds[kTile];
    int chosen[Shape::kPicks];  // slots of candidates, then the picks' points
    int places[Shape::kPicks];  // of the picks
    Key limit;
    int count;
};

__device__ __forceinline__ Key warp_highest(Key v) {
    const unsigned high = __reduce_max_sync(kWarp, static_cast<unsigned>(v >> 32));
    const unsigned low = __reduce_max_sync(kWarp, v >> 32 == high ? static_cast<unsigned>(v) : 0u);
    return Key(high) << 32 | low;
}

// Of the block, in every thread. Calls take turns with two places to meet.
template <typename S>
__device__ __forceinline__ Key block_highest(S& shared, Key v, int turn) {
    const Key mine = warp_highest(v);
    if (threadIdx.x % 32 == 0) shared.highest[turn % 2][threadIdx.x / 32] = mine;
    __syncthreads();
    return warp_highest(shared.highest[turn % 2][threadIdx.x % kWarps]);
}

// The highest of this thread's keys below a limit.
__device__ __forceinline__ Key next_key(const Key* keys, int count, Key limit) {
    Key next = 0;
    for (int row = threadIdx.x; row < count; row += kThreads) {
        const Key key = keys[row];
        if (key < limit && key > next) next = key;
    }
    return next;
}

// Writes the block's highest keys in descending order, 0 where there are no more.
template <typename S>
__device__ __forceinline__ void offer(const State& s, S& shared) {
    const Key* keys = s.keys + std::int64_t(blockIdx.x) * s.layout.rows;
    const int count = s.layout.count(blockIdx.x);
    Key* offers = s.offers + std::int64_t(blockIdx.x) * (s.offered + 1);
    Key mine = next_key(keys, count, ~Key(0));
    for (int i = 0; i <= s.offered; ++i) {
        const Key key = block_highest(shared, mine, i);
        if (threadIdx.x == 0) offers[i] = key;
        if (key && key == mine) mine = next_key(keys, count, key);
    }
    __syncthreads();  // the next meeting may be in the same place
}

// All points above `limit` that are offered are candidates; every point that is not has a key of `limit` or less. Each
// block finds the same.
template <typename S>
__device__ __forceinline__ void find_candidates(const State& s, S& shared) {
    constexpr int most = sizeof shared.candidates / sizeof(Key);
    const int each = s.offered + 1, count = s.layout.blocks * each;
    Key* found = reinterpret_cast<Key*>(shared.region);
    Key limit = 0, top = 0;
    for (int block = threadIdx.x; block < s.layout.blocks; block += kThreads) {
        top = max(top, s.offers[block * each]);
        limit = max(limit, s.offers[block * each + s.offered]);
    }
    if (threadIdx.x == 0) shared.count = 0;
    top = block_highest(shared, top, 0);
    limit = block_highest(shared, limit, 1);
    // Distances of a round are told apart in 32 bits.
    const Key reach = 0xffff0000u;
    if (rounded_of(top) > reach) limit = max(limit, key_of(rounded_of(top) - reach, 0));
    for (int i = threadIdx.x; i < count; i += kThreads) {
        const Key key = s.offers[i];
        if (key > limit) found[atomicAdd(&shared.count, 1)] = key;
    }
    __syncthreads();
    const int all = shared.count;
    Key* kept = found + all;
    if (threadIdx.x == 0) shared.limit = limit;
    if (all > most) {
        __syncthreads();
        for (int i = threadIdx.x; i < all; i += kThreads) {
            int rank = 0;
            for (int j = 0; j < all; ++j) rank += found[j] > found[i];
            if (rank < most) kept[rank] = found[i];
            if (rank == most) shared.limit = found[i];
        }
        if (threadIdx.x == 0) shared.count = most;
        found = kept;
    }
    __syncthreads();
    const int n = shared.count;
    for (int i = threadIdx.x; i < n; i += kThreads) {
        int slot = 0;
        for (int j = 0; j < n; ++j) slot += (found[j] & kLastIndex) > (found[i] & kLastIndex);
        shared.candidates[slot] = found[i];
    }
    __syncthreads();
}

// A distance above the limit's, as a number that is never below 1; 0 below it.
__device__ __forceinline__ unsigned above(Key rounded, Key limit) {
    const Key from = rounded_of(limit);
    return rounded < from                  ? 0u
           : rounded - from >= 0xffffffffu ? 0xffffffffu
                                           : static_cast<unsigned>(rounded - from + 1);
}

// The distances between candidates, shared among all blocks: pair k n + i is i and the one k + 1 further round.
template <typename S>
__device__ __forceinline__ void measure_candidates(const State& s, S& shared) {
    constexpr int stride = sizeof shared.candidates / sizeof(Key);
    const int n = shared.count, pairs = n * (n - 1) / 2;
    for (int pair = blockIdx.x * kGroups + group(); pair < pairs; pair += gridDim.x * kGroups) {
        const int i = pair % n, j = (i + pair / n + 1) % n;
        const Key rounded = measure(s, index_of(shared.candidates[i]), index_of(shared.candidates[j]));
        if (group_lane()) continue;
        s.distances[i * stride + j] = s.distances[j * stride + i] = above(rounded, shared.limit);
    }
}

template <typename S>
__device__ __forceinline__ void load_distances(const State& s, S& shared) {
    constexpr int stride = sizeof shared.candidates / sizeof(Key);
    const uint4* from = reinterpret_cast<const uint4*>(s.distances);
    uint4* to = reinterpret_cast<uint4*>(shared.region);
    const int n = shared.count * (stride / 4);
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += kThreads) to[i] = from[i];
    __syncthreads();
}

// The greedy among the candidates, by one warp, for as long as the best of them comes before the limit: then it comes
// before all points that are no candidates, for those can only have come nearer. Returns how many picks there are.
template <int columns, typename S>
__device__ __forceinline__ int pick_candidates(S& shared, int wanted) {
    constexpr int stride = 32 * columns;
    const unsigned* distances = reinterpret_cast<const unsigned*>(shared.region);
    const unsigned lane = threadIdx.x;
    const int n = shared.count;
    const Key limit = shared.limit;
    unsigned far[columns], least[columns];  // at the limit's distance, indices below the limit's come before it
#pragma unroll
    for (int i = 0; i < columns; ++i) {
        const int slot = lane + 32 * i;
        const Key key = slot < n ? shared.candidates[slot] : 0;
        far[i] = slot < n ? above(rounded_of(key), limit) : 0;
        least[i] = (key & kLastIndex) > (limit & kLastIndex) ? 1 : 2;
    }
    int count = 0;
    for (; count < wanted; ++count) {
        unsigned best = 0;
#pragma unroll
        for (int i = 0; i < columns; ++i) best = max(best, far[i]);
        best = __reduce_max_sync(kWarp, best);
        if (best == 0) break;
        unsigned slot = ~0u;
#pragma unroll
        for (int i = columns - 1; i >= 0; --i)
            if (far[i] == best) slot = lane + 32 * i;
        slot = __reduce_min_sync(kWarp, slot);
        if (lane == 0) shared.chosen[count] = slot;
        const unsigned* row = distances + slot * stride + lane;
#pragma unroll
        for (int i = 0; i < columns; ++i) {
            far[i] = lane + 32 * i == slot ? 0 : min(far[i], row[32 * i]);
            if (far[i] < least[i]) far[i] = 0;
        }
    }
    return count;
}

// Makes picks of the chosen candidates; `picked` are there already. Owners take them out.
template <typename S>
__device__ __forceinline__ void take_picks(const State& s, S& shared, std::int64_t picked, int count) {
    constexpr int most = sizeof shared.candidates / sizeof(Key);
    for (int i = threadIdx.x; i < most; i += kThreads) {
        shared.offsets[i] = kNever;
        if (i >= count) continue;
        const int m = index_of(shared.candidates[shared.chosen[i]]), place = s.layout.place(m);
        shared.chosen[i] = m;
        shared.places[i] = place;
        shared.offsets[i] = offset_of(s, s.bounds[place]);
        if (blockIdx.x == 0) s.arguments.picks[picked + i] = m;
        if (s.layout.block(m) == static_cast<int>(blockIdx.x)) {
            s.keys[place] = 0;
            s.thresholds[place] = __builtin_inff();
        }
    }
    __syncthreads();
}

}  // namespace coreset
}  // namespace cuda
}  // namespace vsad
