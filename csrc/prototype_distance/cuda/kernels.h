// The passes of prototype_distance on the GPU, as the bindings and one another call them.
#pragma once
#include <array>

#include "prototype_distance/cuda/bank.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

// How a call is served best; see screened_search.cu.
struct Choice {
    Screen screen;
    std::array<bool, kFormats> formats;
};
Choice choose(std::int64_t M, std::int64_t P, std::int64_t C, std::int64_t k, bool packed);

// Fills the bank that the arguments describe.
void pack_prototypes(const DistanceArguments& arguments, cudaStream_t stream);
// Screens as the arguments say, re-ranks, and measures what that did not certify.
void screened_search(const DistanceArguments& arguments, cudaStream_t stream);
void prototype_distance_backward(const DistanceGradientArguments& arguments, cudaStream_t stream);

// The features that a pass deals with: all, or those that an earlier pass did not certify.
struct FeatureList {
    const std::int32_t* list;  // null: all
    const int* count;          // on the device; null: `most`
    int most;
};

// How a screening kernel is launched, and how it keeps candidates: in `lists` threads per feature, `kept` in each.
struct ScreenShape {
    int tile_prototypes, lists, kept, blocks;
    int cluster;  // blocks that share each copied tile of the bank, with a row tile of features each
};
ScreenShape shape_mma(Format format, std::int64_t k);
ScreenShape shape_wgmma(Format format, std::int64_t M, std::int64_t k);
inline ScreenShape shape_of(const DistanceArguments& a, Format format) {
    return a.screen == Screen::wgmma ? shape_wgmma(format, a.M, a.k) : shape_mma(format, a.k);
}

// The passes of a screened search.
void inverse_lengths(const DistanceArguments& a, const Matrix& m, std::int64_t count, double* to, cudaStream_t stream);
void quantize_features(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream);
void screen_mma(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream);
void screen_wgmma(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream);
void rerank(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream);
void brute_force(const DistanceArguments& a, const FeatureList& features, cudaStream_t stream);
int brute_force_blocks();

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
