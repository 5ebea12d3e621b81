// What the binding passes to the homography_warp kernels.
#pragma once
#include <cstdint>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "homography_warp/arguments.h"

namespace vsad {

struct WarpGradients {
    WarpArguments forward;
    Picture input;        // in the compute dtype, zeroed; no data: not needed
    double* homography;   // (B, groups, 3, 3), zeroed; null: not needed
    std::int64_t groups;  // of channels, as equal as can be; each is one item
};

#define VSAD_DECLARE(isa, ...)                                     \
    namespace isa {                                                \
    Work homography_warp_forward(const WarpArguments& arguments);  \
    Work homography_warp_backward(const WarpGradients& arguments); \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
