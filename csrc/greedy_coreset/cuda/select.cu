// The plain k-centre greedy, pick for pick, in rounds of one cooperative kernel that never leaves the device.
//
// At the start of a round every point knows its distance to the nearest of all picks, as the reference ranks it. The
// points that come first are candidates; the limit is the key of the first point that is none. Distances only shrink,
// so as long as the best candidate comes before the limit, it is the pick that the plain algorithm makes: by distance,
// of equals the lowest index, for keys hold both. When the best of them comes behind the limit, or all are picked, the
// round ends, and every point meets the round's picks. A round makes one pick at least, for the first candidate comes
// before the limit; nothing but its length depends on which points are candidates.
//
//     offer               each block, its points' highest keys; the highest that any block keeps back is the limit
//     (all blocks wait)
//     find_candidates     each block the same; measure_candidates: all pairs, shared out
//     (all blocks wait)
//     pick_candidates     each block the same, in one warp
//     Fold                each block its points against the picks: halves on tensor cores, float64 where they do not
//     tell
#include "greedy_coreset/cuda/kernels.h"

#include <algorithm>
#include <cmath>

#include "cuda/grid.h"
#include "greedy_coreset/cuda/fold.h"

namespace vsad {
namespace cuda {
namespace coreset {
namespace {

// The launch shape is the same for all: one block of 512 threads on each multiprocessor, but no more blocks than tiles
// of 128 points; 94 KB of shared memory, which every architecture has.
//
// What to expect of 200,000 x 128 -> 20,000 in float32 on an H200, by arithmetic, nothing of it measured on a GPU.
// Counted on the CPU, in numpy, on Gaussian points, clusters and a curved surface: 116 to 130 rounds of 154 to 172
// picks with 192 candidates each; the kernel has about 180 and takes some more. On 50,000 -> 5,000 it measures 5 to 10
// pairs a point in all, of 5,000; 5 to 7 of them bring a point nearer. For each round:
//     two waits of all blocks                                      3 us
//     offers, candidates                                           2 us
//     16,000 distances in float64 between 180 candidates           4 us  latency; 1 us of conversions
//     160 picks of about 200 cycles                               19 us  latency of one warp
//     200,000 x 192 x 128 products, 9.8 GFLOP                     20 us  at 60 % of 790 Tflop/s, for mma.sync
//         51 MB of halves, most of them in L2                     12 us  hidden behind them
//         comparing 38 million scores                              3 us
//     12,000 pairs measured, 12 MB                                 4 us  latency
// About 55 us a round, 7 ms in all, 0.35 us a pick. A loop in torch reads 102 MB a pick and launches five kernels, 60
// us or more. The tensor cores bind with two fifths, then the warp that picks with a third; wide apart from both, look
// for a list that overflows (the first two or three rounds are to) or rows that halves do not hold. The worst case, one
// pick a round, costs about 25 us a pick: two waits and a pass over the halves.
constexpr std::int64_t kMostPoints = 1 << 28;
constexpr std::int64_t kMostChannels = 1 << 17;  // rounding errors of more add up to nothing that screens

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1) coreset_kernel(const __grid_constant__ State s) {
    Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared());
    const double scale = scale_of(s);
    if (blockIdx.x == 0 && threadIdx.x == 0) s.arguments.picks[0] = s.arguments.start;
    prepare<Element>(s, scale);
    __syncthreads();
    for (std::int64_t picked = 1; picked < s.arguments.size;) {
        offer(s, shared);
        grid_sync();
        find_candidates(s, shared);
        measure_candidates<Element>(s, shared);
        grid_sync();
        load_distances(s, shared);
        if (threadIdx.x < 32) {
            const std::int64_t left = s.arguments.size - picked;
            const int count = pick_candidates(shared, left < kMost ? static_cast<int>(left) : kMost);
            __syncwarp();
            if (threadIdx.x == 0) shared.count = count;
        }
        __syncthreads();
        const int count = shared.count;
        take_picks(s, shared, picked, count);
        picked += count;
        if (picked < s.arguments.size) Fold<Element>(s, shared, scale, count).run();
    }
}

// Lays out the workspace; returns its size.
std::size_t lay_out(State& s) {
    const CoresetArguments& a = s.arguments;
    const std::int64_t resident = resident_blocks(coreset_kernel<float>, kThreads, sizeof(Shared));
    s.layout.M = static_cast<int>(a.M);
    s.layout.blocks = static_cast<int>(std::max<std::int64_t>(1, std::min(resident, (a.M + kTile - 1) / kTile)));
    s.layout.rows = (s.layout.M + s.layout.blocks - 1) / s.layout.blocks;
    if (a.M >= kMostPoints || s.layout.rows >= 1 << 24) throw std::invalid_argument("greedy_coreset: too many points");
    const double share = double(kMost) / s.layout.blocks;
    s.offered = static_cast<int>(std::ceil(share + 3 * std::sqrt(share)));
    s.padded = static_cast<int>((std::max<std::int64_t>(a.C, 1) + 7) / 8 * 8);
    s.slack = a.C > kMostChannels ? 0x1p100f : float(s.padded + kChunk + 32) * 0x1p-21f;

    const std::size_t places = std::size_t(s.layout.blocks) * s.layout.rows;
    std::size_t bytes = 0;
    const auto take = [&](auto*& array, std::size_t count) {
        array = reinterpret_cast<std::decay_t<decltype(array)>>(static_cast<char*>(a.workspace) + bytes);
        bytes += (count * sizeof *array + 255) / 256 * 256;
    };
    take(s.halves, places * s.padded);
    take(s.keys, places);
    take(s.thresholds, places);
    take(s.bounds, places);
    take(s.offers, std::size_t(s.layout.blocks) * (s.offered + 1));
    take(s.distances, kMost * (kMost - 1) / 2);
    return bytes;
}

}  // namespace
}  // namespace coreset

std::size_t coreset_workspace(std::int64_t M, std::int64_t C) {
    coreset::State state{};
    state.arguments.M = M;
    state.arguments.C = C;
    return coreset::lay_out(state);
}

void greedy_coreset(const CoresetArguments& arguments, cudaStream_t stream) {
    coreset::State state{};
    state.arguments = arguments;
    coreset::lay_out(state);
    with_float_type(arguments.dtype, [&](auto element) {
        launch_cooperative(coreset::coreset_kernel<decltype(element)>, dim3(state.layout.blocks),
                           dim3(coreset::kThreads), sizeof(coreset::Shared), stream, state);
    });
}

}  // namespace cuda
}  // namespace vsad
