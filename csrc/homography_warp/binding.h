// The Python class WarpArguments, which vsad._cpu and vsad._cuda both have.
#pragma once
#include "common/bind.h"
#include "homography_warp/arguments.h"

namespace vsad {

using ImageTuple = std::array<std::int64_t, 5>;  // the data pointer and four strides; a null pointer is no image

inline ImageView view_of(const ImageTuple& t) { return {at<char>(Pointer(t[0])), t[1], t[2], t[3], t[4]}; }

inline void bind_warp_arguments(pybind11::module_& m) {
    using pybind11::arg;
    pybind11::class_<WarpArguments>(m, "WarpArguments", pybind11::module_local())
        .def(pybind11::init([](const ImageTuple& input, Pointer homography, std::int64_t homography_batch,
                               const ImageTuple& out, Pointer mask, const std::array<std::int64_t, 6>& sizes, int mode,
                               int padding, int dtype, double coordinate_limit, int threads) {
                 const auto& [B, C, H, W, Hs, Ws] = sizes;
                 return WarpArguments{view_of(input),
                                      at<void>(homography),
                                      homography_batch,
                                      view_of(out),
                                      at<char>(mask),
                                      B,
                                      C,
                                      H,
                                      W,
                                      Hs,
                                      Ws,
                                      static_cast<Mode>(mode),
                                      static_cast<Padding>(padding),
                                      static_cast<Scalar>(dtype),
                                      coordinate_limit,
                                      threads};
             }),
             pybind11::kw_only(), arg("input"), arg("homography"), arg("homography_batch"), arg("out"), arg("mask"),
             arg("sizes"), arg("mode"), arg("padding"), arg("dtype"), arg("coordinate_limit"), arg("threads") = 1)
        .def(
            "placed",
            [](WarpArguments a, py::handle input, py::handle homography, py::handle out, py::handle mask) {
                a.input.data = place_of(input);
                a.homography = place_of(homography);
                a.out.data = place_of(out);
                a.mask = place_of(mask);
                return a;
            },
            "The same arguments of tensors that lie elsewhere.");
}

}  // namespace vsad
