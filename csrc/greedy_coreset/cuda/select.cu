// The plain k-center greedy, pick for pick, in rounds of one cooperative kernel that never leaves the device.
//
// At the start of a round the distance of every point to the nearest of all picks is known, as the reference ranks it.
// The highest-ranked points are candidates; the limit is the key of the first point that is none. Distances only
// shrink, so as long as the best candidate ranks above the limit, it is the pick that the plain algorithm makes: the
// farthest, and of equals the lowest index, because keys hold both. When the best candidate ranks below the limit, or
// all are picked, the round ends, and every point is compared with the round's picks. A round makes at least one pick,
// because the first candidate ranks above the limit; only its length depends on which points are candidates.
//
//     offer                 each block writes the highest keys of its points; the highest key that any block withholds
//                           is the limit
//     (grid barrier)
//     find_candidates       every block computes the same
//     measure_candidates    the pairs of candidates are distributed over all blocks
//     (grid barrier)
//     pick_candidates       one warp of every block computes the same
//     Fold                  each block compares its points with the picks: in float16 on tensor cores, and in float64
//                           where that does not decide
#include "greedy_coreset/cuda/kernels.h"

#include <algorithm>
#include <cmath>

#include "cuda/grid.h"
#include "greedy_coreset/cuda/fold.h"

namespace vsad {
namespace cuda {
namespace coreset {
namespace {

constexpr std::int64_t kMostPoints = 1 << 28;
constexpr std::int64_t kMostChannels = 1 << 17;  // with more, rounding errors add up so far that nothing is screened

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

// Lays out the workspace; returns its size in bytes. The launch shape is one block per multiprocessor, but no more
// blocks than tiles of points.
std::size_t lay_out(State& s) {
    const CoresetArguments& a = s.arguments;
    std::int64_t resident = 0;
    with_float_type(a.dtype, [&](auto element) {
        resident = resident_blocks(coreset_kernel<decltype(element)>, kThreads, sizeof(Shared));
    });
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
    take(s.rounded, places * s.padded);
    take(s.keys, places);
    take(s.thresholds, places);
    take(s.bounds, places);
    take(s.offers, std::size_t(s.layout.blocks) * (s.offered + 1));
    take(s.distances, kMost * (kMost - 1) / 2);
    return bytes;
}

}  // namespace
}  // namespace coreset

std::size_t coreset_workspace(std::int64_t M, std::int64_t C, Scalar dtype) {
    coreset::State state{};
    state.arguments.M = M;
    state.arguments.C = C;
    state.arguments.dtype = dtype;
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
