#include "cuda/prototype_distance.h"
namespace vsad { namespace cuda {
Shape shape_wgmma(Format f, std::int64_t k) { return shape_mma(f, k); }
void screen_wgmma(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t s) { screen_mma(a, format, rows, s); }
}}
