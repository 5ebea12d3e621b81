#include "cuda/bind.h"
#include "homography_warp/cuda/kernels.h"

namespace py = pybind11;

namespace vsad {
namespace cuda {
namespace {

// (data pointer, four strides)
using Four = std::array<std::int64_t, 5>;

Picture picture(const Four& t) { return {at<char>(static_cast<Pointer>(t[0])), t[1], t[2], t[3], t[4]}; }

}  // namespace

void bind_homography_warp(py::module_& m) {
    py::class_<WarpArguments>(m, "WarpArguments", py::module_local())
        .def(py::init([](int dtype, int mode, int padding, double anywhere, const std::array<std::int64_t, 6>& sizes,
                         const Four& input, const Four& out, Pointer homography, std::int64_t homography_batch,
                         Pointer mask) {
                 const auto& [B, C, H, W, Hs, Ws] = sizes;
                 return WarpArguments{static_cast<Scalar>(dtype),
                                      static_cast<Mode>(mode),
                                      static_cast<Padding>(padding),
                                      0,
                                      anywhere,
                                      B,
                                      C,
                                      H,
                                      W,
                                      Hs,
                                      Ws,
                                      picture(input),
                                      picture(out),
                                      at<void>(homography),
                                      homography_batch,
                                      at<char>(mask)};
             }),
             py::kw_only(), py::arg("dtype"), py::arg("mode"), py::arg("padding"), py::arg("anywhere"),
             py::arg("sizes"), py::arg("input"), py::arg("out"), py::arg("homography"), py::arg("homography_batch"),
             py::arg("mask"));
    m.def("homography_warp_forward", [](const WarpArguments& arguments, Pointer stream) {
        homography_warp_forward(arguments, stream_at(stream));
    });
    py::class_<WarpGradients>(m, "WarpGradients", py::module_local())
        .def(py::init([](const WarpArguments& forward, const Four& input, Pointer scale) {
                 return WarpGradients{forward, picture(input), at<double>(scale), nullptr};
             }),
             py::arg("forward"), py::kw_only(), py::arg("input"), py::arg("scale"))
        .def_property_readonly("parts", &homography_warp_parts)
        .def_property(
            "homography", [](const WarpGradients& g) { return reinterpret_cast<Pointer>(g.homography); },
            [](WarpGradients& g, Pointer homography) { g.homography = at<double>(homography); });
    m.def("homography_warp_backward", [](const WarpGradients& gradients, Pointer stream) {
        homography_warp_backward(gradients, stream_at(stream));
    });
}

const Bindings bindings(&bind_homography_warp);

}  // namespace cuda
}  // namespace vsad
