#include "cuda/transpose.h"

#include "cuda/launch.h"

namespace vsad {
namespace cuda {
namespace {

// A block moves tiles of kSide x kSide elements through shared memory: it reads rows and writes columns, both in whole
// sectors, with kSide * kSide / kThreads independent loads in flight.
constexpr int kSide = 64, kThreads = 256, kStep = kThreads / kSide;
constexpr std::int64_t kMostBlocks = 65535;  // the limit of grid.y and grid.z

template <typename Element>
__global__ void __launch_bounds__(kThreads) transpose_kernel(const __grid_constant__ TransposeArguments a) {
    __shared__ Element tile[kSide][kSide + 4 / sizeof(Element)];  // lanes that read a column meet different banks
    const int lane = threadIdx.x % kSide, line = threadIdx.x / kSide;
    const std::int64_t left = blockIdx.x * std::int64_t(kSide);
    for (std::int64_t b = blockIdx.z; b < a.batches; b += gridDim.z)
        for (std::int64_t top = blockIdx.y * std::int64_t(kSide); top < a.rows;
             top += gridDim.y * std::int64_t(kSide)) {
            const Element* from = static_cast<const Element*>(a.from) + b * a.from_batch + top * a.from_row + left;
            Element* to = static_cast<Element*>(a.to) + b * a.to_batch + left * a.to_column + top;
            Element held[kSide / kStep];
#pragma unroll
            for (int i = 0; i < kSide / kStep; ++i) {
                const int row = line + i * kStep;
                held[i] = top + row < a.rows && left + lane < a.columns ? from[row * a.from_row + lane] : Element(0);
            }
#pragma unroll
            for (int i = 0; i < kSide / kStep; ++i) tile[line + i * kStep][lane] = held[i];
            __syncthreads();
#pragma unroll
            for (int i = 0; i < kSide / kStep; ++i) {
                const int column = line + i * kStep;
                if (left + column < a.columns && top + lane < a.rows)
                    to[column * a.to_column + lane] = tile[lane][column];
            }
            __syncthreads();  // the tile is no longer read when the next one is written
        }
}

template <typename Element>
void run(const TransposeArguments& a, cudaStream_t stream) {
    const std::int64_t down = (a.rows + kSide - 1) / kSide;
    const dim3 grid(static_cast<unsigned>((a.columns + kSide - 1) / kSide),
                    static_cast<unsigned>(down < kMostBlocks ? down : kMostBlocks),
                    static_cast<unsigned>(a.batches < kMostBlocks ? a.batches : kMostBlocks));
    launch(transpose_kernel<Element>, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace

void transpose(const TransposeArguments& a, cudaStream_t stream) {
    if (a.element_bytes == 2) return run<std::uint16_t>(a, stream);
    if (a.element_bytes == 4) return run<std::uint32_t>(a, stream);
    throw std::invalid_argument("transpose: elements must have 2 or 4 bytes");
}

}  // namespace cuda
}  // namespace vsad
