// The end of a round of greedy_coreset: every block compares its points with all picks of the round.
//
// Tensor cores compute scores. The pairs with scores above their point's threshold are few; a list collects them, and
// when the block has seen all tiles, all groups of lanes measure them together. In the first rounds, or where float16
// decides little, they are too many for the list: then the points of a tile are measured at once, each with the pick of
// its highest score first, which mostly puts all other scores below the threshold.
#pragma once
#include "greedy_coreset/cuda/round.h"

namespace vsad {
namespace cuda {
namespace coreset {

constexpr int kRowWarps = 4;                  // the block's 16 warps form a square
constexpr int kColumns = kMost / 8 / 4;       // matrices of 8 picks per warp
constexpr int kTileRows = kTile / kRowWarps;  // points per warp
constexpr int kSegments = kRowBytes / 16;

// Segments of 16 bytes are permuted from row to row, so that the rows of a matrix lie in different banks.
__device__ __forceinline__ int staged_at(int row, int segment) {
    return row * kRowBytes + ((segment ^ (row & (kSegments - 1))) * 16);
}

// Maps a score to an unsigned integer of the same order.
__device__ __forceinline__ unsigned ranked(float score) {
    const unsigned bits = bit_cast<unsigned>(score);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

template <typename Element>
struct Fold {
    const State& s;
    Shared& shared;
    const double scale;
    const int picks, count, chunks;
    const std::int64_t first;  // the first place of the block
    const bool stay;           // whether all chunks of the picks fit, and are staged once

    __device__ __forceinline__ Fold(const State& s, Shared& shared, double scale, int picks)
        : s(s),
          shared(shared),
          scale(scale),
          picks(picks),
          count(s.layout.count(blockIdx.x)),
          chunks((s.padded + kChunk - 1) / kChunk),
          first(std::int64_t(blockIdx.x) * s.layout.rows),
          stay(chunks <= kStages) {}

    __device__ __forceinline__ unsigned char* points(int stage) const { return shared.region + stage * kTileBytes; }
    __device__ __forceinline__ unsigned char* pick_rows(int stage) const {
        return shared.region + kStages * kTileBytes + stage * kPickBytes;
    }

    __device__ __forceinline__ void stage_row(unsigned char* to, int row, int chunk, std::int64_t place,
                                              bool exists) const {
        const int segment = threadIdx.x % kSegments, c = chunk * kChunk + segment * 8;
        exists = exists && c < s.padded;
        cp_async(to + staged_at(row, segment), s.rounded + (exists ? place * s.padded + c : 0), exists);
    }

    __device__ __forceinline__ void stage(int step) const {
        const int tile = step / chunks, chunk = step % chunks;
#pragma unroll
        for (int row = threadIdx.x / kSegments; row < kTile; row += kThreads / kSegments) {
            const int at = tile * kTile + row;
            stage_row(points(step % kStages), row, chunk, first + at, at < count);
        }
        if (stay && step >= chunks) return;
#pragma unroll
        for (int row = threadIdx.x / kSegments; row < kMost; row += kThreads / kSegments)
            stage_row(pick_rows(stay ? chunk : step % kStages), row, chunk, row < picks ? shared.places[row] : 0,
                      row < picks);
    }

    // The scores of the warp's 32 points and 8 * kColumns picks. Lane (g, t) has rows g and g + 8 and columns 2 t and
    // 2 t + 1 of every 16 x 8 matrix.
    using Scores = float[2][kColumns][4];

    __device__ __forceinline__ int warp_row() const { return threadIdx.x / 32 % kRowWarps * kTileRows; }
    __device__ __forceinline__ int warp_column() const { return threadIdx.x / 32 / kRowWarps * 8 * kColumns; }
    __device__ __forceinline__ int row_of(int i, int half) const {
        return warp_row() + 16 * i + 8 * half + threadIdx.x % 32 / 4;
    }
    __device__ __forceinline__ int column_of(int j, int e) const {
        return warp_column() + 8 * j + threadIdx.x % 4 * 2 + e;
    }

    __device__ __forceinline__ void begin(Scores& scores) const {
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float offset = shared.offsets[column_of(j, e)];
#pragma unroll
                for (int i = 0; i < 2; ++i) scores[i][j][e] = scores[i][j][e + 2] = offset;
            }
    }

    __device__ __forceinline__ void multiply(Scores& scores, int step) const {
        const unsigned char* a_rows = points(step % kStages);
        const unsigned char* b_rows = pick_rows(stay ? step % chunks : step % kStages);
        const int lane = threadIdx.x % 32;
        const int segments = min(kSegments, s.padded / 8 - step % chunks * kSegments);
#pragma unroll 1
        for (int k = 0; k < segments; k += 2) {
            unsigned a[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                ldmatrix(a[i], a_rows + staged_at(warp_row() + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
            for (int j = 0; j < kColumns; j += 2) {
                unsigned b[4];
                ldmatrix(b, b_rows + staged_at(warp_column() + 8 * j + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    mma(scores[i][j], a[i], b[0], b[1], float16());
                    mma(scores[i][j + 1], a[i], b[2], b[3], float16());
                }
            }
        }
    }

    // Appends the pairs above their threshold to the list and erases their scores; returns whether the list is too
    // short.
    __device__ __forceinline__ bool collect(Scores& scores, int tile) const {
        bool full = false;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float threshold = shared.thresholds[row_of(i, half)];
                float highest = kNever;
#pragma unroll
                for (int j = 0; j < kColumns; ++j)
                    highest = fmaxf(highest, fmaxf(scores[i][j][2 * half], scores[i][j][2 * half + 1]));
                if (highest == kNever || highest <= threshold) continue;
                int wanted = 0;
#pragma unroll
                for (int j = 0; j < kColumns; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const float score = scores[i][j][2 * half + e];
                        wanted += score > threshold;
                    }
                int at = atomicAdd(&shared.waiting, wanted);
                if (at + wanted > kFound) {
                    for (full = true; at < kFound; ++at) shared.found[at] = 0;
                    continue;
                }
                const unsigned row = tile * kTile + row_of(i, half);
#pragma unroll
                for (int j = 0; j < kColumns; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        float& score = scores[i][j][2 * half + e];
                        if (!(score > threshold)) continue;
                        shared.found[at++] = Key(ranked(score)) << 32 | row << 8 | unsigned(column_of(j, e));
                        score = kNever;
                    }
            }
        return full;
    }

    // Puts each point's highest score above its threshold into `best`; returns whether this thread has one.
    __device__ __forceinline__ bool find_best(const Scores& scores, Key* best) const {
        bool any = false;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float threshold = shared.thresholds[row_of(i, half)];
                float highest = kNever;
                int column = 0;
#pragma unroll
                for (int j = 0; j < kColumns; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e)
                        if (scores[i][j][2 * half + e] > highest) {
                            highest = scores[i][j][2 * half + e];
                            column = column_of(j, e);
                        }
                if (highest == kNever || highest <= threshold) continue;
                atomicMax(&best[row_of(i, half)], Key(ranked(highest)) << 32 | unsigned(column));
                any = true;
            }
        return any;
    }

    // Erases the scores that `best` names.
    __device__ __forceinline__ void strike(Scores& scores, const Key* best) const {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Key named = best[row_of(i, half)];
                const int column = named ? static_cast<int>(named & 0xff) : -1;
#pragma unroll
                for (int j = 0; j < kColumns; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e)
                        if (column == column_of(j, e)) scores[i][j][2 * half + e] = kNever;
            }
    }

    // Measures a point of the block with a pick, in a group of lanes, and updates its key and threshold if it is
    // nearer.
    template <int ahead>
    __device__ __forceinline__ void measure_pair(int row, int column) const {
        const std::int64_t place = first + row;
        const int m = s.layout.point(blockIdx.x, row);
        const Key rounded = measure<Element, ahead>(s, m, shared.chosen[column]), key = key_of(rounded, m);
        if (group_lane() == 0 && key < atomicMin(&s.keys[place], key))
            s.thresholds[place] = threshold_of(s, scale, rounded, s.bounds[place]);
    }

    __device__ __forceinline__ void settle(Scores& scores, int tile, int& buffer) const {
        while (__syncthreads_or(find_best(scores, shared.best[buffer]))) {
            const Key* best = shared.best[buffer];
            buffer ^= 1;
            if (threadIdx.x < kTile) shared.best[buffer][threadIdx.x] = 0;
            strike(scores, best);
            for (int row = group(); row < kTile; row += kGroups)
                if (best[row]) {
                    measure_pair<2>(tile * kTile + row, best[row] & 0xff);
                    if (group_lane() == 0) shared.thresholds[row] = s.thresholds[first + tile * kTile + row];
                }
            __syncthreads();
        }
        if (threadIdx.x == 0) shared.waiting = kFound;  // the count beyond the list must not grow from tile to tile
    }

    // Measures the pairs on the list, except for those that earlier ones put below the threshold. Two groups may write
    // a threshold, the lower value last: that costs an unnecessary measurement later, but is not wrong.
    __device__ __forceinline__ void empty_list() const {
        const int waiting = min(shared.waiting, kFound);
        for (int i = group(); i < waiting; i += kGroups) {
            const Key pair = shared.found[i];
            const int row = static_cast<unsigned>(pair) >> 8;
            const bool wanted = pair && pair >> 32 > ranked(s.thresholds[first + row]);
            if (__shfl_sync(0xffu << (threadIdx.x % 32 / kLanes * kLanes), wanted, 0, kLanes))
                measure_pair<8>(row, pair & 0xff);
        }
        __syncthreads();
    }

    __device__ __forceinline__ void run() const {
        const int steps = (count + kTile - 1) / kTile * chunks;
        int buffer = 0;
        if (threadIdx.x < kTile) shared.best[0][threadIdx.x] = 0;
        if (threadIdx.x == 0) shared.waiting = 0;
        for (int step = 0; step < kStages - 1; ++step) {
            if (step < steps) stage(step);
            cp_async_commit();
        }
        Scores scores;
        for (int step = 0; step < steps; ++step) {
            const int tile = step / chunks, row = tile * kTile + static_cast<int>(threadIdx.x);
            cp_async_wait<kStages - 2>();
            if (step % chunks == 0) {
                if (threadIdx.x < kTile)
                    shared.thresholds[threadIdx.x] = row < count ? s.thresholds[first + row] : __builtin_inff();
                begin(scores);
            }
            __syncthreads();
            if (step + kStages - 1 < steps) stage(step + kStages - 1);
            cp_async_commit();
            if (warp_column() < picks) multiply(scores, step);
            if (step % chunks == chunks - 1 && __syncthreads_or(collect(scores, tile))) settle(scores, tile, buffer);
        }
        cp_async_wait<0>();
        __syncthreads();
        empty_list();
    }
};

}  // namespace coreset
}  // namespace cuda
}  // namespace vsad
