// Quantizes the features of a call, and measures the lengths of rows for the cosine.
#include "prototype_distance/cuda/quantize.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {
namespace {

// One over the length of each row; -1 where all elements are zero.
template <typename Element>
__global__ void __launch_bounds__(kQuantizeThreads, 4)
    inverse_kernel(const Matrix m, const std::int64_t count, const std::int64_t C, double* inverse_lengths) {
    const int lane = threadIdx.x % 32;
    for (std::int64_t row = first_row(); row < count; row += row_step()) {
        const Element* from = static_cast<const Element*>(m.data) + row * m.row;
        double sum = 0;
        for (std::int64_t c = lane; c < C; c += 32) {
            const double x = widen(from[c]);
            sum += x * x;
        }
        sum = warp_sum(sum);
        if (lane == 0) inverse_lengths[row] = sum == 0 ? -1 : 1 / sqrt(sum);
    }
}

template <Format format, typename Element>
__global__ void __launch_bounds__(kQuantizeThreads, 4)
    quantize_features_kernel(const __grid_constant__ DistanceArguments a, const FeatureList features) {
    const std::int64_t width = code_width(a.C, int(format));
    const int lane = threadIdx.x % 32, count = count_of(features);
    const std::int64_t padded = round_up(count, kTileRows);
    for (std::int64_t i = first_row(); i < padded; i += row_step()) {
        unsigned char* to = a.work.codes + i * width;
        QuantizedFeature feature{1, 0, 0, kInfinity};
        if (i < count) {
            const Row<Element> row(a.features, a.work.inverse_lengths, feature_at(features, i), a.metric);
            const Size size = size_of(row, a.bank.center, a.C);
            if (size.finite && size.squared < kHuge && !row.has_no_direction()) {
                feature.scale = format == Format::bfloat16 ? 1 : fmaxf(size.largest / 127, kLeastScale);
                feature.length = sqrtf(size.squared);
                const Quantized q =
                    quantize_row<format>(to, row, a.bank.center, a.C, width, feature.scale, feature.length);
                feature.squared = q.squared;
                feature.radius = q.residual;
            }
        }
        if (!(feature.radius < kInfinity)) zero_row(to, width);
        if (lane == 0) a.work.features[i] = feature;
    }
}

}  // namespace

void quantize_features(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream) {
    const dim3 grid(quantize_blocks(round_up(features.most, kTileRows))), block(kQuantizeThreads);
    with_float_type(a.dtype, [&](auto element) {
        using Element = decltype(element);
        if (format == Format::bfloat16)
            launch(quantize_features_kernel<Format::bfloat16, Element>, grid, block, 0, stream, a, features);
        else
            launch(quantize_features_kernel<Format::int8, Element>, grid, block, 0, stream, a, features);
    });
}

void inverse_lengths(const DistanceArguments& a, const Matrix& m, std::int64_t count, double* to, cudaStream_t stream) {
    with_float_type(a.dtype, [&](auto element) {
        launch(inverse_kernel<decltype(element)>, dim3(quantize_blocks(count)), dim3(kQuantizeThreads), 0, stream, m,
               count, a.C, to);
    });
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
