// homography_warp as a Python function of vsad._cuda.
#pragma once
#include "cuda/bind.h"
#include "homography_warp/binding.h"
#include "homography_warp/cuda/kernels.h"

namespace vsad {
namespace cuda {

inline void bind_homography_warp(pybind11::module_& m) {
    using pybind11::arg;
    bind_warp_arguments(m);
    m.def("homography_warp_forward", [](const WarpArguments& arguments, Pointer stream) {
        homography_warp_forward(arguments, stream_at(stream));
    });
    pybind11::class_<WarpGradients>(m, "WarpGradients", pybind11::module_local())
        .def(pybind11::init([](const WarpArguments& forward, const ImageTuple& input, Pointer scale) {
                 return WarpGradients{forward, view_of(input), at<double>(scale), nullptr};
             }),
             arg("forward"), pybind11::kw_only(), arg("input"), arg("scale"))
        .def_property_readonly("parts", &homography_warp_parts)
        .def_property(
            "homography", [](const WarpGradients& g) { return reinterpret_cast<Pointer>(g.homography); },
            [](WarpGradients& g, Pointer homography) { g.homography = at<double>(homography); });
    m.def("homography_warp_backward", [](const WarpGradients& gradients, Pointer stream) {
        homography_warp_backward(gradients, stream_at(stream));
    });
}

}  // namespace cuda
}  // namespace vsad
