// A round of greedy_coreset up to its picks: selects candidates, measures their distances from one another, and runs
// the plain greedy among them alone.
#pragma once
#include "cuda/ptx.h"
#include "cuda/ptx_mma.h"
#include "greedy_coreset/cuda/rows.h"

namespace vsad {
namespace cuda {
namespace coreset {

constexpr int kMost = 192;    // most candidates in a round: six per lane of the warp that picks
constexpr int kTile = 128;    // points of a block that are compared with the picks at once
constexpr int kStages = 2;    // chunks of a tile and of the picks that are being copied
constexpr int kFound = 1024;  // pairs in the list of those to measure
constexpr int kHeld = 4;      // keys per thread in registers
constexpr int kRowBytes = 2 * kChunk, kTileBytes = kTile * kRowBytes, kPickBytes = kMost * kRowBytes;
constexpr int kRegion = kStages * (kTileBytes + kPickBytes);

struct Shared {
    // First the offered keys, then the candidates' distances, then the staged float16 rows.
    alignas(128) unsigned char region[kRegion];
    Key candidates[kMost];    // candidates in the order of their indices
    Key highest[2][kWarps];   // the highest key of each warp
    Key best[2][kTile];       // per point of a tile, the pick to measure next
    Key found[kFound];        // the pairs to measure: a score, a place of the block in 24 bits, a pick in 8
    float offsets[kMost];     // the offset of each pick's scores
    float thresholds[kTile];  // the score above which a pair is measured, for each point of a tile
    int chosen[kMost];        // the slots of candidates, then the points of the picks
    int places[kMost];        // the places of the picks
    Key limit;
    int count, kept, waiting;
};
static_assert(sizeof(Shared) <= 99 * 1024, "what a block has on sm_86, sm_89 and sm_120");
static_assert(kMost == 6 * 32 && kMost * (kMost + 1) / 2 * 4 <= kRegion, "a round fits");

__device__ __forceinline__ Key warp_highest(Key v) {
    const unsigned high = __reduce_max_sync(kWarp, static_cast<unsigned>(v >> 32));
    const unsigned low = __reduce_max_sync(kWarp, v >> 32 == high ? static_cast<unsigned>(v) : 0u);
    return Key(high) << 32 | low;
}

// The highest key of the block, in every thread. Calls alternate between two places in shared memory, so that one
// barrier per call is enough.
__device__ __forceinline__ Key block_highest(Shared& shared, Key v, int place) {
    const Key mine = warp_highest(v);
    if (threadIdx.x % 32 == 0) shared.highest[place % 2][threadIdx.x / 32] = mine;
    __syncthreads();
    return warp_highest(shared.highest[place % 2][threadIdx.x % kWarps]);
}

// Writes the block's highest keys in descending order, 0 where there are no more.
__device__ __forceinline__ void offer(const State& s, Shared& shared) {
    const Key* keys = s.keys + std::int64_t(blockIdx.x) * s.layout.rows;
    const int thread = reread_thread(), count = s.layout.count(blockIdx.x);
    Key held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        const int row = thread + i * kThreads;
        held[i] = row < count ? keys[row] : 0;
    }
    const auto below = [&](Key limit) {
        Key next = 0;
#pragma unroll
        for (int i = 0; i < kHeld; ++i)
            if (held[i] < limit) next = max(next, held[i]);
        for (int row = thread + kHeld * kThreads; row < count; row += kThreads)
            if (keys[row] < limit) next = max(next, keys[row]);
        return next;
    };
    Key* offers = s.offers + std::int64_t(blockIdx.x) * (s.offered + 1);
    Key mine = below(~Key(0));
    for (int i = 0; i <= s.offered; ++i) {
        const Key key = block_highest(shared, mine, i);
        if (thread == 0) offers[i] = key;
        if (key && key == mine) mine = below(key);
    }
    __syncthreads();  // the next call of block_highest may use the same place
}

// Raises the limit by bisection until at most kMost candidates are above it, and stops early when nearly kMost are.
__device__ __forceinline__ Key raise_limit(const Key* found, int count, Key limit, Key top) {
    while (top - limit > 1) {
        const Key middle = limit + (top - limit) / 2;
        int above = 0;
        for (int i = 0; i < count; i += kThreads) {
            const int at = i + static_cast<int>(threadIdx.x);
            above += __syncthreads_count(at < count && found[at] > middle);
        }
        (above > kMost ? limit : top) = middle;
        if (above <= kMost && above >= kMost - kMost / 8) break;
    }
    return top;
}

// All offered points above `limit` become candidates; every other point has a key of at most `limit`. Every block finds
// the same.
__device__ __forceinline__ void find_candidates(const State& s, Shared& shared) {
    const int each = s.offered + 1, offers = s.layout.blocks * each;
    Key* found = reinterpret_cast<Key*>(shared.region);
    Key limit = 0, top = 0;
    for (int block = threadIdx.x; block < s.layout.blocks; block += kThreads) {
        top = max(top, s.offers[block * each]);
        limit = max(limit, s.offers[block * each + s.offered]);
    }
    if (threadIdx.x == 0) shared.count = shared.kept = 0;
    top = block_highest(shared, top, 0);
    limit = block_highest(shared, limit, 1);
    // 32 bits must hold the differences between the distances of a round.
    const Key span = 0xffff0000u;
    if (rounded_of(top) > span) limit = max(limit, key_of(rounded_of(top) - span, 0));
    for (int i = threadIdx.x; i < offers; i += kThreads) {
        const Key key = s.offers[i];
        if (key > limit) found[atomicAdd(&shared.count, 1)] = key;
    }
    __syncthreads();
    const int count = shared.count;
    Key* kept = found + count;
    if (count > kMost) limit = raise_limit(found, count, limit, top);
    for (int i = threadIdx.x; i < count; i += kThreads)
        if (found[i] > limit) kept[atomicAdd(&shared.kept, 1)] = found[i];
    __syncthreads();
    const int n = shared.kept;
    for (int i = threadIdx.x; i < n; i += kThreads) {
        const unsigned mine = kept[i] & kLastIndex;
        int slot = 0;
        for (int j = 0; j < n; ++j) slot += unsigned(kept[j] & kLastIndex) > mine;
        shared.candidates[slot] = kept[i];
    }
    if (threadIdx.x == 0) {
        shared.limit = limit;
        shared.count = n;
    }
    __syncthreads();
}

// How far a distance is above the limit's: 1 if they are equal, 0 if it is below.
__device__ __forceinline__ unsigned above(Key rounded, Key limit) {
    const Key from = rounded_of(limit);
    if (rounded < from) return 0;
    return rounded - from >= 0xffffffffu ? 0xffffffffu : static_cast<unsigned>(rounded - from + 1);
}

// The start of row i of a triangle below the diagonal. In 32 consecutive rows from a multiple of 32 on, a column lies
// in 32 different banks.
__device__ __forceinline__ unsigned triangle(unsigned i) { return i * (i - 1) / 2; }

// The distances between candidates, distributed over all blocks: pair k n + i is candidate i with candidate i + k + 1
// modulo n.
template <typename Element>
__device__ __forceinline__ void measure_candidates(const State& s, const Shared& shared) {
    const int n = shared.count, pairs = n * (n - 1) / 2;
    for (int pair = blockIdx.x * kGroups + group(); pair < pairs; pair += gridDim.x * kGroups) {
        const int i = pair % n, j = (i + pair / n + 1) % n;
        const Key rounded = measure<Element, 8>(s, index_of(shared.candidates[i]), index_of(shared.candidates[j]));
        if (group_lane() == 0) s.distances[triangle(max(i, j)) + min(i, j)] = above(rounded, shared.limit);
    }
}

__device__ __forceinline__ void load_distances(const State& s, Shared& shared) {
    const uint4* from = reinterpret_cast<const uint4*>(s.distances);
    uint4* to = reinterpret_cast<uint4*>(shared.region);
    const int n = (static_cast<int>(triangle(shared.count)) + 3) / 4;
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += kThreads) to[i] = from[i];
    __syncthreads();
}

// The plain greedy among the candidates, in one warp, for as long as the best of them ranks above the limit: then it
// ranks above all points that are no candidates, whose distances can only have shrunk. Returns the number of picks. All
// other warps wait, so it has no branches, and issues all loads of a pick at once.
__device__ __forceinline__ int pick_candidates(Shared& shared, int wanted) {
    constexpr int each = kMost / 32;
    const unsigned* distances = reinterpret_cast<const unsigned*>(shared.region);
    const unsigned lane = threadIdx.x, n = shared.count;
    const Key limit = shared.limit;
    unsigned far[each], least[each],
        row[each];  // at the limit's distance, lower indices than the limit's rank above it
#pragma unroll
    for (int i = 0; i < each; ++i) {
        const unsigned slot = lane + 32 * i;
        const Key key = slot < n ? shared.candidates[slot] : 0;
        far[i] = slot < n ? above(rounded_of(key), limit) : 0;
        least[i] = (key & kLastIndex) > (limit & kLastIndex) ? 1 : 2;
        row[i] = triangle(slot);
    }
    int count = 0;
#pragma unroll 1
    for (; count < wanted; ++count) {
        const unsigned best =
            __reduce_max_sync(kWarp, max(max(max(far[0], far[1]), max(far[2], far[3])), max(far[4], far[5])));
        if (best == 0) break;
        unsigned slots[each], met[each];
#pragma unroll
        for (int i = 0; i < each; ++i) slots[i] = far[i] == best ? lane + 32 * i : unsigned(kMost);
        const unsigned first = min(min(min(slots[0], slots[1]), min(slots[2], slots[3])), min(slots[4], slots[5]));
        const unsigned chosen = __reduce_min_sync(kWarp, first), chosen_row = triangle(chosen);
        if (lane == 0) shared.chosen[count] = chosen;
#pragma unroll
        for (int i = 0; i < each; ++i) {  // without such a pair, any place of the region will do
            const unsigned slot = lane + 32 * i;
            met[i] = distances[slot < chosen ? chosen_row + slot : row[i] + chosen];
        }
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const unsigned nearer = min(far[i], met[i]);
            far[i] = nearer < least[i] || lane + 32 * i == chosen ? 0 : nearer;
        }
    }
    return count;
}

// Makes picks of the chosen candidates, after `picked` earlier ones; the block that owns a pick takes it out.
__device__ __forceinline__ void take_picks(const State& s, Shared& shared, std::int64_t picked, int count) {
    for (int i = threadIdx.x; i < kMost; i += kThreads) {
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
