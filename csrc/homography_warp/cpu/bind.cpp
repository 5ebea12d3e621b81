#include "cpu/bind.h"
#include "homography_warp/cpu/kernels.h"

namespace py = pybind11;

namespace vsad {
namespace {

// (data pointer, four strides)
using Four = std::array<std::int64_t, 5>;

Picture picture(const Four& t) { return {at<char>(static_cast<Pointer>(t[0])), t[1], t[2], t[3], t[4]}; }

}  // namespace

void bind_homography_warp(py::module_& m) {
    py::class_<WarpArguments>(m, "WarpArguments")
        .def(py::init([](int dtype, int mode, int padding, int threads, double anywhere,
                         const std::array<std::int64_t, 6>& sizes, const Four& input, const Four& out,
                         Pointer homography, std::int64_t homography_batch, Pointer mask) {
                 const auto& [B, C, H, W, Hs, Ws] = sizes;
                 return WarpArguments{static_cast<Scalar>(dtype),
                                      static_cast<Mode>(mode),
                                      static_cast<Padding>(padding),
                                      threads,
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
             py::kw_only(), py::arg("dtype"), py::arg("mode"), py::arg("padding"), py::arg("threads"),
             py::arg("anywhere"), py::arg("sizes"), py::arg("input"), py::arg("out"), py::arg("homography"),
             py::arg("homography_batch"), py::arg("mask"));
    m.def(
        "homography_warp_forward",
        [](const WarpArguments& arguments) {
            run_parallel(VSAD_CHOOSE(homography_warp_forward)(arguments), &arguments);
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "homography_warp_backward",
        [](const WarpArguments& forward, const Four& input, Pointer homography, std::int64_t groups) {
            const WarpGradients gradients{forward, picture(input), at<double>(homography), groups};
            const py::gil_scoped_release release;
            run_parallel(VSAD_CHOOSE(homography_warp_backward)(gradients), &gradients);
        },
        py::arg("forward"), py::kw_only(), py::arg("input"), py::arg("homography"), py::arg("groups"));
}

const Bindings bindings(&bind_homography_warp);

}  // namespace vsad
