// What the binding passes to the CPU kernels of homography_warp.
#pragma once
#include <cstdint>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "homography_warp/arguments.h"

namespace vsad {

constexpr std::int64_t kLocate = 16;  // multiply-adds that cost as much as locating the taps of a pixel

struct WarpGradients {
    WarpArguments forward;
    ImageView input;      // the input's gradient in the compute dtype, zeroed; without data it is not needed
    double* homography;   // (B, groups, 3, 3), zeroed; null where it is not needed
    std::int64_t groups;  // how many channel groups, of equal size as far as possible; each is one item
};

#define VSAD_DECLARE(isa, ...)                                     \
    namespace isa {                                                \
    Work homography_warp_forward(const WarpArguments& arguments);  \
    Work homography_warp_backward(const WarpGradients& arguments); \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
