// Rows relative to the bank's centre and coded for the tensor cores, with what coding changed.
#include "prototype_distance/cuda/rows.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMostBlocks = 2048;
constexpr int kCenterRows = 256;     // any centre gives the same result; the mean of so many is near enough
constexpr int kCenterThreads = 512;  // 32 channels, 16 groups of rows
constexpr float kHuge = 1e36f;       // squared lengths that may overflow when they are added up
constexpr float kLeastScale = 1e-30f;
constexpr float kSafe = 1.001f;               // covers the rounding of sums of 2^17 terms, over 32 lanes
constexpr float kCenterError = 1.1f * kUnit;  // of a centred row, relative to its length
constexpr float kLost = 0x1p-64f;             // of a length, by the underflow of squares
constexpr float kLeaveOut = -1;

int blocks_for(std::int64_t rows) {
    const std::int64_t blocks = (rows + kWarps - 1) / kWarps;
    return static_cast<int>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

// One over each row's length; -1 where all elements are zero.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    inverse_kernel(const Matrix m, const std::int64_t count, const std::int64_t C, double* inverse) {
    const int lane = threadIdx.x % 32;
    for (std::int64_t row = blockIdx.x * std::int64_t(kWarps) + threadIdx.x / 32; row < count;
         row += gridDim.x * kWarps) {
        const Element* from = static_cast<const Element*>(m.data) + row * m.row;
        double sum = 0;
        for (std::int64_t c = lane; c < C; c += 32) {
            const double x = widen(from[c]);
            sum += x * x;
        }
        sum = warp_sum(sum);
        if (lane == 0) inverse[row] = sum == 0 ? -1 : 1 / sqrt(sum);
    }
}

// The mean of some rows, without what is not finite. Block 0 also clears what later kernels add to.
template <typename Element>
__global__ void __launch_bounds__(kCenterThreads) center_kernel(const __grid_constant__ DistanceArguments a) {
    __shared__ float sums[kCenterThreads];
    const std::int64_t c = blockIdx.x * std::int64_t(32) + threadIdx.x % 32, step = a.P / kCenterRows + 1;
    float sum = 0;
    if (c < a.C)
        for (std::int64_t p = threadIdx.x / 32 * step; p < a.P; p += kCenterThreads / 32 * step)
            sum += Row<Element>(a.prototypes, a.bank.inverse, p, a.metric)[c];
    sums[threadIdx.x] = sum;
    if (blockIdx.x == 0)
        for (int i = threadIdx.x; i < int(sizeof(Stats) / 4); i += kCenterThreads)
            reinterpret_cast<unsigned*>(a.bank.stats)[i] = 0;
    __syncthreads();
    if (threadIdx.x >= 32 || c >= a.C) return;
    sum = 0;
    for (int i = 0; i < kCenterThreads / 32; ++i) sum += sums[i * 32 + threadIdx.x];
    const float mean = sum / float((a.P + step - 1) / step);
    a.bank.center[c] = mean - mean == 0 ? mean : 0;
}

struct Size {
    float largest, squared;
    bool finite;
};

// Of a row relative to the centre, in every lane.
template <typename Element>
__device__ __forceinline__ Size size_of(const Row<Element>& row, const float* center, std::int64_t C) {
    Size size{0, 0, true};
    for (std::int64_t c = threadIdx.x % 32; c < C; c += 32) {
        const float x = row[c] - center[c];
        size.finite = size.finite && x - x == 0;
        size.largest = fmaxf(size.largest, fabsf(x));
        size.squared = fmaf(x, x, size.squared);
    }
    size.finite = __all_sync(kWarp, size.finite);
    size.largest = warp_max(size.largest);
    size.squared = warp_sum(size.squared);
    return size;
}

// The bins of sizes: exponents and their two next bits; the last one for what may overflow.
__device__ __forceinline__ int bin_of(const Size& size) {
    return size.squared < kHuge ? int(__float_as_uint(size.largest) >> 21) : kBins - 1;
}

template <typename Element>
__global__ void __launch_bounds__(kThreads) measure_kernel(const __grid_constant__ DistanceArguments a) {
    Stats& stats = *a.bank.stats;
    const int lane = threadIdx.x % 32;
    for (std::int64_t p = blockIdx.x * std::int64_t(kWarps) + threadIdx.x / 32; p < a.P; p += gridDim.x * kWarps) {
        const Row<Element> row(a.prototypes, a.bank.inverse, p, a.metric);
        const Size size = size_of(row, a.bank.center, a.C);
        const bool zero = row.no_length();
        if (lane > 0) continue;
        if (zero) atomicOr(&stats.zeros, 1);
        a.bank.largest[p] = !size.finite || zero ? kLeaveOut : size.squared < kHuge ? size.largest : kInfinity;
        if (!size.finite || zero) continue;
        const int bin = bin_of(size);
        atomicAdd(&stats.count[bin], 1u);
        atomicMax(reinterpret_cast<int*>(&stats.largest[bin]), __float_as_int(size.largest));
    }
}

// Which sizes are special, and the unit of bytes. Special are at most kMostSpecial prototypes, if they are four times
// as large as all others: they would spoil the bounds of all. A thread has a bin.
__global__ void __launch_bounds__(kBins) decide_kernel(Stats* to) {
    __shared__ unsigned totals[32];
    __shared__ int top, largest;
    Stats& stats = *to;
    const int bin = threadIdx.x, lane = bin % 32;
    const unsigned count = stats.count[bin];
    unsigned above = count;  // in this bin and those after it
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
    int last = __syncthreads_count(above - count > kMostSpecial);  // `above` falls from bin to bin
    if (top < kBins - 1 && top - last < 8) last = kBins - 2;
    if (bin <= last) atomicMax(&largest, __float_as_int(stats.largest[bin]));
    __syncthreads();
    if (bin > 0) return;
    stats.most = __int_as_float(largest);
    if (last == kBins - 1) stats.specials = kMostSpecial + 1;
    stats.scale[int(Format::bfloat16)] = 1;
    stats.scale[int(Format::int8)] = fmaxf(stats.most / 127, kLeastScale);
}

struct Coding {
    float squared, residual;  // |coded|^2, |row - coded|
    int squares;              // of the bytes
};

// Codes a row relative to the centre, in `unit` for int8; zeros fill the width.
template <Format format, typename Element>
__device__ __forceinline__ Coding code_row(unsigned char* to, const Row<Element>& row, const float* center,
                                           std::int64_t C, std::int64_t width, float unit, float length) {
    const int lane = threadIdx.x % 32;
    float squared = 0, residual = 0;
    int squares = 0;
    const float inverse = 1 / unit;
    for (std::int64_t c = lane; c < width / (format == Format::bfloat16 ? 2 : 1); c += 32) {
        const float x = c < C ? row[c] - center[c] : 0;
        float rest;
        if constexpr (format == Format::bfloat16) {
            const bfloat16 code = narrow<bfloat16>(x);
            const float y = widen(code);
            reinterpret_cast<bfloat16*>(to)[c] = code;
            squared = fmaf(y, y, squared);
            rest = x - y;
        } else {
            const int code = max(-127, min(127, __float2int_rn(x * inverse)));
            reinterpret_cast<signed char*>(to)[c] = static_cast<signed char>(code);
            squares += code * code;
            rest = fmaf(-float(code), unit, x);
        }
        residual = fmaf(rest, rest, residual);
    }
    squares = warp_sum(squares);
    residual = (sqrtf(warp_sum(residual)) + kLost + kCenterError * length) * kSafe;
    return {format == Format::bfloat16 ? warp_sum(squared) : unit * unit * float(squares), residual, squares};
}

template <typename Element>
__device__ __forceinline__ void zero_row(Element* to, std::int64_t width) {
    for (std::int64_t i = threadIdx.x % 32; i < width / std::int64_t(sizeof(Element)); i += 32) to[i] = Element{};
}

template <Format format, typename Element>
__global__ void __launch_bounds__(kThreads) code_prototypes_kernel(const __grid_constant__ DistanceArguments a) {
    Stats& stats = *a.bank.stats;
    const Coded& coded = a.bank.coded[int(format)];
    const int lane = threadIdx.x % 32;
    float radius = 0, squared = 0;
    for (std::int64_t p = blockIdx.x * std::int64_t(kWarps) + threadIdx.x / 32; p < a.bank.rows;
         p += gridDim.x * kWarps) {
        unsigned char* to = coded.codes + p * coded.width;
        const float largest = p < a.P ? a.bank.largest[p] : kLeaveOut;
        if (!(largest >= 0 && largest <= stats.most)) {
            zero_row(reinterpret_cast<unsigned*>(to), coded.width);
            if (lane > 0) continue;
            coded.offset[p] = kInfinity;
            if (largest < 0 || format == Format::int8) continue;  // the other format collects them
            const int place = atomicAdd(&stats.specials, 1);
            if (place < kMostSpecial) stats.special[place] = static_cast<int>(p);
            continue;
        }
        const Row<Element> row(a.prototypes, a.bank.inverse, p, a.metric);
        const float length = largest * sqrtf(float(a.C));  // at most
        const float unit = stats.scale[int(format)];
        const Coding c = code_row<format>(to, row, a.bank.center, a.C, coded.width, unit, length);
        if (lane == 0) coded.offset[p] = format == Format::bfloat16 ? c.squared / 2 : float(c.squares);
        radius = fmaxf(radius, c.residual);
        squared = fmaxf(squared, c.squared);
    }
    if (lane > 0) return;
    atomicMax(reinterpret_cast<int*>(&stats.radius[int(format)]), __float_as_int(radius));
    atomicMax(reinterpret_cast<int*>(&stats.length[int(format)]), __float_as_int(sqrtf(squared) * kSafe));
}

template <Format format, typename Element>
__global__ void __launch_bounds__(kThreads)
    code_features_kernel(const __grid_constant__ DistanceArguments a, const Rows rows) {
    const std::int64_t width = code_width(a.C, int(format));
    const int lane = threadIdx.x % 32, count = count_of(rows);
    const std::int64_t padded = round_up(count, kTileRows);
    for (std::int64_t i = blockIdx.x * std::int64_t(kWarps) + threadIdx.x / 32; i < padded; i += gridDim.x * kWarps) {
        unsigned char* to = a.work.codes + i * width;
        Terms terms{1, 0, 0, kInfinity};
        if (i < count) {
            const Row<Element> row(a.features, a.work.inverse, row_at(rows, i), a.metric);
            const Size size = size_of(row, a.bank.center, a.C);
            if (size.finite && size.squared < kHuge && !row.no_length()) {
                terms.scale = format == Format::bfloat16 ? 1 : fmaxf(size.largest / 127, kLeastScale);
                const Coding c = code_row<format>(to, row, a.bank.center, a.C, width, terms.scale, sqrtf(size.squared));
                terms.square = c.squared;
                terms.length = sqrtf(size.squared);
                terms.radius = c.residual;
            }
        }
        if (!(terms.radius < kInfinity)) zero_row(reinterpret_cast<unsigned*>(to), width);
        if (lane == 0) a.work.terms[i] = terms;
    }
}

template <typename Element>
void pack(const DistanceArguments& a, cudaStream_t stream) {
    if (a.metric == Metric::cosine) inverse_lengths(a, a.prototypes, a.P, a.bank.inverse, stream);
    if (!a.bank.stats) return;
    launch(center_kernel<Element>, dim3(static_cast<unsigned>((a.C + 31) / 32)), dim3(kCenterThreads), 0, stream, a);
    launch(measure_kernel<Element>, dim3(blocks_for(a.P)), dim3(kThreads), 0, stream, a);
    launch(decide_kernel, dim3(1), dim3(kBins), 0, stream, a.bank.stats);
    const dim3 grid(blocks_for(a.bank.rows));
    launch(code_prototypes_kernel<Format::bfloat16, Element>, grid, dim3(kThreads), 0, stream, a);
    if (a.bank.coded[int(Format::int8)].codes)
        launch(code_prototypes_kernel<Format::int8, Element>, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace

void pack_prototypes(const DistanceArguments& a, cudaStream_t stream) {
    with_float_type(a.dtype, [&](auto element) { pack<decltype(element)>(a, stream); });
}

void code_features(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream) {
    const dim3 grid(blocks_for(round_up(rows.most, kTileRows)));
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        if (format == Format::bfloat16)
            launch(code_features_kernel<Format::bfloat16, Element>, grid, dim3(kThreads), 0, stream, a, rows);
        else
            launch(code_features_kernel<Format::int8, Element>, grid, dim3(kThreads), 0, stream, a, rows);
    });
}

void inverse_lengths(const DistanceArguments& a, const Matrix& m, std::int64_t count, double* inverse,
                     cudaStream_t stream) {
    with_float_type(a.dtype, [&](auto element) {
        launch(inverse_kernel<decltype(element)>, dim3(blocks_for(count)), dim3(kThreads), 0, stream, m, count, a.C,
               inverse);
    });
}

}  // namespace cuda
}  // namespace vsad
