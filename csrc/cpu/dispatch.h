// Dispatch by dtype: kernels are templates of the element type, and Python passes its code.
#pragma once

#include "common/scalar.h"

namespace vsad {

// Throws std::invalid_argument. In module.cpp, so that no code of a throw stands among the kernels.
[[noreturn]] void refuse_dtype();

namespace VSAD_ISA {

// Calls f(Element{}) for the element type of a dtype.
template <typename F>
VSAD_HD auto with_float_type(Scalar dtype, F f) {
    switch (dtype) {
        case Scalar::float64:
            return f(double{});
        case Scalar::bfloat16:
            return f(bfloat16{});
        case Scalar::float16:
            return f(float16{});
        case Scalar::float32:
            return f(float{});
        default:
            refuse_dtype();
    }
}

}  // namespace VSAD_ISA
}  // namespace vsad
