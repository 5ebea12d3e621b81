// Packs a bank: its center, which prototypes are outliers, and the quantized prototypes with what bounds their error.
#include "prototype_distance/cuda/quantize.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {
namespace {

// Rows whose mean is the center. Any center gives the same result; the mean of 256 rows is near enough to the bank's.
constexpr int kCenterRows = 256;
constexpr int kCenterThreads = 512;  // 32 channels x 16 groups of rows
constexpr float kExcluded = -1;
constexpr int kMeasureBlocks = 512;  // each adds a histogram to the bank's

// The mean of some rows; zero in channels where it is not finite. Block 0 also clears what later kernels add to.
template <typename Element>
__global__ void __launch_bounds__(kCenterThreads) center_kernel(const __grid_constant__ DistanceArguments a) {
    __shared__ float sums[kCenterThreads];
    const std::int64_t c = blockIdx.x * std::int64_t(32) + threadIdx.x % 32, step = a.P / kCenterRows + 1;
    float sum = 0;
    if (c < a.C)
        for (std::int64_t p = threadIdx.x / 32 * step; p < a.P; p += kCenterThreads / 32 * step)
            sum += Row<Element>(a.prototypes, a.bank.inverse_lengths, p, a.metric)[c];
    sums[threadIdx.x] = sum;
    if (blockIdx.x == 0)
        for (int i = threadIdx.x; i < int(sizeof(BankStatistics) / 4); i += kCenterThreads)
            reinterpret_cast<unsigned*>(a.bank.statistics)[i] = 0;
    __syncthreads();
    if (threadIdx.x >= 32 || c >= a.C) return;
    sum = 0;
    for (int i = 0; i < kCenterThreads / 32; ++i) sum += sums[i * 32 + threadIdx.x];
    const float mean = sum / float((a.P + step - 1) / step);
    a.bank.center[c] = mean - mean == 0 ? mean : 0;
}

// The bin of a size: the exponent and the two bits after it. The last bin holds what may overflow.
__device__ __forceinline__ int bin_of(const Size& size) {
    return size.squared < kHuge ? int(__float_as_uint(size.largest) >> 21) : kBins - 1;
}

template <typename Element>
__global__ void __launch_bounds__(kQuantizeThreads, 4) measure_kernel(const __grid_constant__ DistanceArguments a) {
    // The histogram of this block, because few bins hold most rows: all rows would queue for the same addresses.
    __shared__ unsigned count[kBins];
    __shared__ int largest[kBins];  // integers order as non-negative floats do
    BankStatistics& bank = *a.bank.statistics;
    const int lane = threadIdx.x % 32;
    for (int bin = threadIdx.x; bin < kBins; bin += kQuantizeThreads) count[bin] = 0, largest[bin] = 0;
    __syncthreads();
    for (std::int64_t p = first_row(); p < a.P; p += row_step()) {
        const Row<Element> row(a.prototypes, a.bank.inverse_lengths, p, a.metric);
        const Size size = size_of(row, a.bank.center, a.C);
        const bool zero = row.has_no_direction();
        if (lane > 0) continue;
        if (zero) atomicOr(&bank.zeros, 1);
        a.bank.largest[p] = !size.finite || zero ? kExcluded : size.squared < kHuge ? size.largest : kInfinity;
        if (!size.finite || zero) continue;
        const int bin = bin_of(size);
        atomicAdd(&count[bin], 1u);
        atomicMax(&largest[bin], __float_as_int(size.largest));
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < kBins; bin += kQuantizeThreads) {
        if (count[bin] == 0) continue;
        atomicAdd(&bank.count[bin], count[bin]);
        atomicMax(reinterpret_cast<int*>(&bank.largest[bin]), largest[bin]);
    }
}

// Decides which sizes are outliers, and the int8 step. Outliers are at most kMostOutliers prototypes, if they are four
// times as large as all others: they would widen the bounds of all. One thread per bin.
__global__ void __launch_bounds__(kBins) decide_kernel(BankStatistics* to) {
    __shared__ unsigned totals[32];
    __shared__ int top, largest;
    BankStatistics& bank = *to;
    const int bin = threadIdx.x, lane = bin % 32;
    const unsigned count = bank.count[bin];
    unsigned above = count;  // prototypes in this bin and those after it
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const unsigned later = __shfl_down_sync(kWarp, above, step);
        if (lane + step < 32) above += later;
    }
    if (lane == 0) totals[bin / 32] = above;
    if (bin == 0) top = largest = 0;
    __syncthreads();
    for (int warp = bin / 32 + 1; warp < kBins / 32; ++warp) above += totals[warp];
    if (count) atomicMax(&top, bin);
    int last = __syncthreads_count(above - count > kMostOutliers);  // last regular bin: `above` falls from bin to bin
    if (top < kBins - 1 && top - last < 8) last = kBins - 2;        // 8 bins are a factor of four
    if (bin <= last) atomicMax(&largest, __float_as_int(bank.largest[bin]));
    __syncthreads();
    if (bin > 0) return;
    bank.largest_regular = __int_as_float(largest);
    if (last == kBins - 1) bank.outliers = kMostOutliers + 1;
    bank.scale[int(Format::bfloat16)] = 1;
    bank.scale[int(Format::int8)] = fmaxf(bank.largest_regular / 127, kLeastScale);
}

// Leaves a prototype out of screening, and lists it if it is an outlier; called by one lane. Only the bfloat16 pass
// lists, which every bank has.
template <Format format>
__device__ __forceinline__ void leave_out(const DistanceArguments& a, std::int64_t p, float largest) {
    BankStatistics& bank = *a.bank.statistics;
    const QuantizedRows& to = a.bank.quantized[int(format)];
    to.offset[p] = kInfinity;
    if (largest < 0 || format == Format::int8) return;
    const int place = atomicAdd(&bank.outliers, 1);
    if (place < kMostOutliers) bank.outlier[place] = static_cast<int>(p);
}

template <Format format, typename Element>
__global__ void __launch_bounds__(kQuantizeThreads, 4)
    quantize_prototypes_kernel(const __grid_constant__ DistanceArguments a) {
    BankStatistics& bank = *a.bank.statistics;
    const QuantizedRows& to = a.bank.quantized[int(format)];
    const int lane = threadIdx.x % 32;
    float radius = 0, squared = 0;
    for (std::int64_t p = first_row(); p < a.bank.rows; p += row_step()) {
        unsigned char* codes = to.codes + p * to.width;
        const float largest = p < a.P ? a.bank.largest[p] : kExcluded;
        if (!(largest >= 0 && largest <= bank.largest_regular)) {
            zero_row(codes, to.width);
            if (lane == 0) leave_out<format>(a, p, largest);
            continue;
        }
        const Row<Element> row(a.prototypes, a.bank.inverse_lengths, p, a.metric);
        const float length = largest * sqrtf(float(a.C));  // an upper bound
        const float scale = bank.scale[int(format)];
        const Quantized q = quantize_row<format>(codes, row, a.bank.center, a.C, to.width, scale, length);
        if (lane == 0) to.offset[p] = format == Format::bfloat16 ? q.squared / 2 : float(q.sum_of_squares);
        radius = fmaxf(radius, q.residual);
        squared = fmaxf(squared, q.squared);
    }
    __shared__ float radii[kQuantizeWarps], squares[kQuantizeWarps];
    if (lane == 0) radii[threadIdx.x / 32] = radius, squares[threadIdx.x / 32] = squared;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < kQuantizeWarps; ++warp)
        radius = fmaxf(radius, radii[warp]), squared = fmaxf(squared, squares[warp]);
    atomicMax(reinterpret_cast<int*>(&bank.radius[int(format)]), __float_as_int(radius));
    atomicMax(reinterpret_cast<int*>(&bank.length[int(format)]), __float_as_int(sqrtf(squared) * kSafe));
}

template <typename Element>
void pack(const DistanceArguments& a, cudaStream_t stream) {
    if (a.metric == Metric::cosine) inverse_lengths(a, a.prototypes, a.P, a.bank.inverse_lengths, stream);
    if (!a.bank.statistics) return;
    const dim3 block(kQuantizeThreads), grid(quantize_blocks(a.bank.rows));
    launch(center_kernel<Element>, dim3(static_cast<unsigned>((a.C + 31) / 32)), dim3(kCenterThreads), 0, stream, a);
    const int blocks = quantize_blocks(a.P);
    launch(measure_kernel<Element>, dim3(blocks < kMeasureBlocks ? blocks : kMeasureBlocks), block, 0, stream, a);
    launch(decide_kernel, dim3(1), dim3(kBins), 0, stream, a.bank.statistics);
    launch(quantize_prototypes_kernel<Format::bfloat16, Element>, grid, block, 0, stream, a);
    if (a.bank.quantized[int(Format::int8)].codes)
        launch(quantize_prototypes_kernel<Format::int8, Element>, grid, block, 0, stream, a);
}

}  // namespace

void pack_prototypes(const DistanceArguments& a, cudaStream_t stream) {
    with_float_type(a.dtype, [&](auto element) { pack<decltype(element)>(a, stream); });
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
