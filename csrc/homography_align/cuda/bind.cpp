#include "cuda/bind.h"
#include "homography_align/cuda/kernels.h"

namespace py = pybind11;

namespace vsad {
namespace cuda {
namespace {

// (data pointer, strides of batch, view, y and x)
using Four = std::array<std::int64_t, 5>;

AlignImage image(const Four& t) { return {at<char>(static_cast<Pointer>(t[0])), t[1], t[2], t[3], t[4]}; }

}  // namespace

void bind_homography_align(py::module_& m) {
    py::class_<AlignArguments>(m, "AlignArguments", py::module_local())
        .def(py::init([](int dtype, int heads, int window, float scale, const std::array<std::int64_t, 8>& sizes,
                         const std::array<int, 2>& packs, const Four& query, const Four& key, const Four& value,
                         const Four& out, Pointer homography, std::int64_t homography_batch, Pointer neighbors,
                         Pointer bias, Pointer lse) {
                 const auto& [B, V, S, N, H, W, Hs, Ws] = sizes;
                 return AlignArguments{static_cast<Scalar>(dtype),
                                       heads,
                                       window,
                                       scale,
                                       B,
                                       V,
                                       S,
                                       N,
                                       H,
                                       W,
                                       Hs,
                                       Ws,
                                       packs[0],
                                       packs[1],
                                       image(query),
                                       image(key),
                                       image(value),
                                       image(out),
                                       at<float>(homography),
                                       homography_batch,
                                       at<std::int64_t>(neighbors),
                                       at<float>(bias),
                                       at<float>(lse)};
             }),
             py::kw_only(), py::arg("dtype"), py::arg("heads"), py::arg("window"), py::arg("scale"), py::arg("sizes"),
             py::arg("packs"), py::arg("query"), py::arg("key"), py::arg("value"), py::arg("out"),
             py::arg("homography"), py::arg("homography_batch"), py::arg("neighbors"), py::arg("bias"), py::arg("lse"));
    py::class_<AlignGradients>(m, "AlignGradients", py::module_local())
        .def(py::init([](const AlignArguments& forward, const Four& grad_out, Pointer grad_lse, Pointer query,
                         Pointer key, Pointer value, Pointer homography, Pointer bias, Pointer inner, Pointer boxes) {
                 return AlignGradients{forward,          image(grad_out),    at<float>(grad_lse),    at<char>(query),
                                       at<char>(key),    at<char>(value),    at<double>(homography), at<double>(bias),
                                       at<float>(inner), at<AlignBox>(boxes)};
             }),
             py::arg("forward"), py::kw_only(), py::arg("grad_out"), py::arg("grad_lse"), py::arg("query"),
             py::arg("key"), py::arg("value"), py::arg("homography"), py::arg("bias"), py::arg("inner"),
             py::arg("boxes"));
    m.def("homography_align_tiles", &homography_align_tiles, "Of a view of H x W target pixels, in the backward.",
          py::arg("H"), py::arg("W"));
    m.def("homography_align_forward", [](const AlignArguments& arguments, Pointer stream) {
        homography_align_forward(arguments, stream_at(stream));
    });
    m.def("homography_align_backward", [](const AlignGradients& gradients, Pointer stream) {
        homography_align_backward(gradients, stream_at(stream));
    });
    m.def("homography_align_gather", [](const AlignGradients& gradients, Pointer stream) {
        homography_align_gather(gradients, stream_at(stream));
    });
}

const Bindings bindings(&bind_homography_align);

}  // namespace cuda
}  // namespace vsad
