// homography_warp as a Python function of vsad._cpu.
#pragma once
#include "cpu/bind.h"
#include "homography_warp/binding.h"
#include "homography_warp/cpu/kernels.h"

namespace vsad {

inline void bind_homography_warp(pybind11::module_& m) {
    using pybind11::arg;
    bind_warp_arguments(m);
    m.def(
        "homography_warp_forward",
        [](const WarpArguments& arguments) {
            run_parallel(VSAD_CHOOSE(homography_warp_forward)(arguments), &arguments);
        },
        pybind11::call_guard<LongCall>());
    m.def(
        "homography_warp_backward",
        [](const WarpArguments& forward, const ImageTuple& input, Pointer homography, std::int64_t groups) {
            const WarpGradients gradients{forward, view_of(input), at<double>(homography), groups};
            const LongCall call;
            run_parallel(VSAD_CHOOSE(homography_warp_backward)(gradients), &gradients);
        },
        arg("forward"), pybind11::kw_only(), arg("input"), arg("homography"), arg("groups"));
}

}  // namespace vsad
