// homography_align as a Python function of vsad._cuda.
#pragma once
#include "cuda/bind.h"
#include "homography_align/binding.h"
#include "homography_align/cuda/kernels.h"

namespace vsad {
namespace cuda {

inline AlignBackwardArguments backward_arguments(const AlignArguments& forward, const AlignGradients& gradients,
                                                 Pointer inner, Pointer boxes) {
    return {gradients, packed(forward), at<float>(inner), at<SourceBox>(boxes)};
}

inline void bind_homography_align(py::module_& m) {
    bind_align_arguments(m);
    bind_align_gradients(m);
    m.def("homography_align_tiles", &homography_align_tiles,
          "Tiles that the backward makes of a view of H x W target pixels.", py::arg("H"), py::arg("W"));
    m.def("homography_align_boxes", &homography_align_boxes, "Boxes that the gather needs of a slot of such a view.",
          py::arg("H"), py::arg("W"));
    m.def(
        "homography_align_forward",
        [](const AlignArguments& arguments, Pointer stream) {
            homography_align_forward(packed(arguments), stream_at(stream));
        },
        py::arg("arguments"), py::arg("stream"));
    m.def(
        "homography_align_backward",
        [](const AlignArguments& forward, const AlignGradients& gradients, Pointer inner, Pointer boxes,
           Pointer stream) {
            homography_align_backward(backward_arguments(forward, gradients, inner, boxes), stream_at(stream));
        },
        py::arg("forward"), py::arg("gradients"), py::kw_only(), py::arg("inner"), py::arg("boxes"), py::arg("stream"));
    m.def(
        "homography_align_gather",
        [](const AlignArguments& forward, const AlignGradients& gradients, Pointer inner, Pointer boxes,
           Pointer stream) {
            homography_align_gather(backward_arguments(forward, gradients, inner, boxes), stream_at(stream));
        },
        py::arg("forward"), py::arg("gradients"), py::kw_only(), py::arg("inner"), py::arg("boxes"), py::arg("stream"));
    m.def(
        "homography_align_has_mma_backward",
        [](const AlignArguments& arguments, const PlacedImage& grad_out) {
            return homography_align_has_mma_backward(packed(arguments), align_image(grad_out));
        },
        "Whether tensor cores serve the backward of a call.", py::arg("arguments"), py::arg("grad_out"));
    m.def("homography_align_mma_tiles", &homography_align_mma_tiles,
          "Tiles that the backward on tensor cores makes of a view of H x W target pixels.", py::arg("H"),
          py::arg("W"));
    m.def("homography_align_mma_boxes", &homography_align_mma_boxes,
          "Boxes that the gather on tensor cores needs of a slot of such a view.", py::arg("H"), py::arg("W"));
    m.def(
        "homography_align_backward_mma",
        [](const AlignArguments& forward, const AlignGradients& gradients, Pointer taps, Pointer corners, Pointer boxes,
           Pointer stream) {
            const AlignMmaBackwardArguments arguments = {gradients, packed(forward), at<void>(taps),
                                                         at<Corner>(corners), at<SourceBox>(boxes)};
            homography_align_backward_mma(arguments, stream_at(stream));
            homography_align_gather_mma(arguments, stream_at(stream));
        },
        py::arg("forward"), py::arg("gradients"), py::kw_only(), py::arg("taps"), py::arg("corners"), py::arg("boxes"),
        py::arg("stream"));
}

}  // namespace cuda
}  // namespace vsad
