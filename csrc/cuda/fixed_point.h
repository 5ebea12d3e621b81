// Sums in 64-bit fixed point. Integers add up to the same bits in whatever order atomics arrive, floats do not.
#pragma once
#include "cuda/launch.h"

namespace vsad {
namespace cuda {

using FixedPoint = unsigned long long;  // in two's complement, because atomicAdd has no signed 64-bit overload

// *to += scale * value. The scale is a power of two, so only the conversion to an integer rounds; the host chooses it
// so that no sum overflows.
__device__ __forceinline__ void add_fixed_point(FixedPoint* to, double value, double scale) {
    atomicAdd(to, static_cast<FixedPoint>(__double2ll_rn(scale * value)));
}

}  // namespace cuda
}  // namespace vsad
