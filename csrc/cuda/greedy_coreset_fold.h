// The end of a round of greedy_coreset: every block compares its points with all picks of the round.
#pragma once
#include "cuda/greedy_coreset_round.h"
#include "cuda/ptx_half.h"

namespace vsad {
namespace cuda {
namespace coreset {

constexpr int kRowWarps = 4, kTileRows = kTile / kRowWarps;  // 16 warps stand in a square; points of each
constexpr int kSegments = kRowBytes / 16;

// Segments of 16 bytes change places from row to row, so that a matrix's rows lie in different banks.
__device__ __forceinline__ int staged_at(int row, int segment) {
    return row * kRowBytes + ((segment ^ (row & (kSegments - 1))) * 16);
}

template <typename Shape>
struct Fold {
    const State& s;
    Shared<Shape>& shared;
    const double scale;
    const int picks, count, chunks;
    const std::int64_t first;  // place of the block
    const bool stay;           // all chunks of the picks are staged once

    __device__ __forceinline__ Fold(const State& s, Shared<Shape>& shared, double scale, int picks)
        : s(s),
          shared(shared),
          scale(scale),
          picks(picks),
          count(s.layout.count(blockIdx.x)),
          chunks((s.padded + kChunk - 1) / kChunk),
          first(std::int64_t(blockIdx.x) * s.layout.rows),
          stay(chunks <= Shape::kStages) {}

    __device__ __forceinline__ unsigned char* points(int stage) const {
        return shared.region + stage * Shape::kPointBytes;
    }
    __device__ __forceinline__ unsigned char* pick_rows(int stage) const {
        return shared.region + Shape::kStages * Shape::kPointBytes + stage * Shape::kPickBytes;
    }

    __device__ __forceinline__ void stage_row(unsigned char* to, int row, int segment, int chunk, std::int64_t place,
                                              bool exists) const {
        const int c = chunk * kChunk + segment * 8;
        exists = exists && c < s.padded;
        copy_async_16(to + staged_at(row, segment), s.halves + (exists ? place * s.padded + c : 0), exists);
    }

    __device__ __forceinline__ void stage(int step) const {
        const int tile = step / chunks, chunk = step % chunks, segment = threadIdx.x % kSegments;
        for (int row = threadIdx.x / kSegments; row < kTile; row += kThreads / kSegments) {
            const int at = tile * kTile + row;
            stage_row(points(step % Shape::kStages), row, segment, chunk, first + at, at < count);
        }
        if (stay && step >= chunks) return;
        for (int row = threadIdx.x / kSegments; row < Shape::kPicks; row += kThreads / kSegments)
            stage_row(pick_rows(stay ? chunk : step % Shape::kStages), row, segment, chunk,
                      row < picks ? shared.places[row] : 0, row < picks);
    }

    // Scores of the warp's 32 points and 8 * kColumns picks; lane (g, t) has rows g and g + 8, columns 2t and 2t + 1 of
    // every 16 x 8.
    using Scores = float[2][Shape::kColumns][4];

    __device__ __forceinline__ int row0() const { return threadIdx.x / 32 % kRowWarps * kTileRows; }
    __device__ __forceinline__ int column0() const { return threadIdx.x / 32 / kRowWarps * 8 * Shape::kColumns; }

    __device__ __forceinline__ void begin(Scores& scores) const {
#pragma unroll
        for (int j = 0; j < Shape::kColumns; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float offset = shared.offsets[column0() + 8 * j + threadIdx.x % 4 * 2 + e];
#pragma unroll
                for (int i = 0; i < 2; ++i) scores[i][j][e] = scores[i][j][e + 2] = offset;
            }
    }

    __device__ __forceinline__ void multiply(Scores& scores, int step) const {
        const unsigned char* a_rows = points(step % Shape::kStages);
        const unsigned char* b_rows = pick_rows(stay ? step % chunks : step % Shape::kStages);
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < kSegments; k += 2) {
            unsigned a[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                load_matrices(a[i], a_rows + staged_at(row0() + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
            for (int j = 0; j < Shape::kColumns; j += 2) {
                unsigned b[4];
                load_matrices(b, b_rows + staged_at(column0() + 8 * j + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    multiply_halves(scores[i][j], a[i], b[0], b[1]);
                    multiply_halves(scores[i][j + 1], a[i], b[2], b[3]);
                }
            }
        }
    }

    // A score in the order of whole numbers, above its column.
    static __device__ __forceinline__ Key ranked(float score, int column) {
        const unsigned bits = bit_cast<unsigned>(score);
        return Key(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | unsigned(column);
    }

    // Puts each point's highest score above its threshold into `best`; whether this thread has one.
    __device__ __forceinline__ bool find_best(const Scores& scores, Key* best) const {
        bool any = false;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = row0() + 16 * i + 8 * half + threadIdx.x % 32 / 4;
                const float threshold = shared.thresholds[row];
                float highest = kNever;
                int column = -1;
#pragma unroll
                for (int j = 0; j < Shape::kColumns; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e)
                        if (scores[i][j][2 * half + e] > highest) {
                            highest = scores[i][j][2 * half + e];
                            column = column0() + 8 * j + threadIdx.x % 4 * 2 + e;
                        }
                if (column < 0 || highest <= threshold) continue;
                atomicMax(&best[row], ranked(highest, column));
                any = true;
            }
        return any;
    }

    // Compares a tile's points with the picks that `best` names.
    __device__ __forceinline__ void measure_best(const Key* best, int tile) const {
        for (int row = group(); row < kTile; row += kGroups) {
            if (best[row] == 0) continue;
            const std::int64_t place = first + tile * kTile + row;
            const int m = s.layout.point(blockIdx.x, tile * kTile + row);
            const Key rounded = measure(s, m, shared.chosen[static_cast<unsigned>(best[row])]);
            if (group_lane() || rounded >= rounded_of(s.keys[place])) continue;
            s.keys[place] = key_of(rounded, m);
            s.thresholds[place] = shared.thresholds[row] = threshold_of(s, scale, rounded, s.bounds[place]);
        }
    }

    // Forgets the scores that were measured.
    __device__ __forceinline__ void strike(Scores& scores, const Key* best) const {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Key found = best[row0() + 16 * i + 8 * half + threadIdx.x % 32 / 4];
                const int lane = threadIdx.x % 4 * 2, at = found ? int(unsigned(found)) - column0() - lane : -1;
#pragma unroll
                for (int j = 0; j < Shape::kColumns; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e)
                        if (at == 8 * j + e) scores[i][j][2 * half + e] = kNever;
            }
    }

    // Nearest first: one distance mostly settles all.
    __device__ __forceinline__ void settle(Scores& scores, int tile, int& turn) const {
        while (__syncthreads_or(find_best(scores, shared.best[turn]))) {
            const Key* best = shared.best[turn];
            turn ^= 1;
            if (threadIdx.x < kTile) shared.best[turn][threadIdx.x] = 0;
            strike(scores, best);
            measure_best(best, tile);
            __syncthreads();
        }
    }

    __device__ __forceinline__ void run() const {
        const int steps = (count + kTile - 1) / kTile * chunks;
        int turn = 0;
        if (threadIdx.x < kTile) shared.best[0][threadIdx.x] = 0;
        for (int step = 0; step < Shape::kStages - 1; ++step) {
            if (step < steps) stage(step);
            copy_async_commit();
        }
        Scores scores;
        for (int step = 0; step < steps; ++step) {
            const int tile = step / chunks, row = tile * kTile + static_cast<int>(threadIdx.x);
            copy_async_wait<Shape::kStages - 2>();
            if (step % chunks == 0) {
                if (threadIdx.x < kTile)
                    shared.thresholds[threadIdx.x] = row < count ? s.thresholds[first + row] : __builtin_inff();
                begin(scores);
            }
            __syncthreads();
            if (step + Shape::kStages - 1 < steps) stage(step + Shape::kStages - 1);
            copy_async_commit();
            if (column0() < picks) multiply(scores, step);
            if (step % chunks == chunks - 1) settle(scores, tile, turn);
        }
        copy_async_wait<0>();
        __syncthreads();
    }
};

}  // namespace coreset
}  // namespace cuda
}  // namespace vsad
