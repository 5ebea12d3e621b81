// AlignArguments and AlignGradients for Python, bound alike by vsad._cpu and vsad._cuda. module_local keeps the two
// modules' classes apart when both are imported.
#pragma once
#include "common/bind.h"
#include "homography_align/arguments.h"

namespace vsad {

// The data pointer and the five strides of an Image.
using PlacedImage = std::array<std::int64_t, 6>;

inline Image align_image(const PlacedImage& t) {
    return {at<char>(static_cast<Pointer>(t[0])), t[1], t[2], t[3], t[4], t[5]};
}

inline void bind_align_arguments(pybind11::module_& m) {
    namespace py = pybind11;
    py::class_<AlignArguments>(m, "AlignArguments", py::module_local())
        .def(py::init([](int dtype, int out_dtype, const std::array<std::int64_t, 10>& sizes, const PlacedImage& query,
                         const PlacedImage& key, const PlacedImage& value, Pointer homography,
                         std::int64_t homography_batch, Pointer neighbors, Pointer bias, int heads, int window,
                         double scale, const PlacedImage& out, Pointer peak, Pointer log_sum, int threads) {
                 AlignArguments a;
                 a.dtype = static_cast<Scalar>(dtype);
                 a.out_dtype = static_cast<Scalar>(out_dtype);
                 std::int64_t* const to[] = {&a.B, &a.V, &a.S, &a.N, &a.C, &a.Cv, &a.H, &a.W, &a.Hs, &a.Ws};
                 for (std::size_t i = 0; i < sizes.size(); ++i) *to[i] = sizes[i];
                 a.query = align_image(query);
                 a.key = align_image(key);
                 a.value = align_image(value);
                 a.homography = at<void>(homography);
                 a.homography_batch = homography_batch;
                 a.neighbors = at<std::int64_t>(neighbors);
                 a.bias = at<void>(bias);
                 a.heads = heads;
                 a.window = window;
                 a.scale = scale;
                 a.out = align_image(out);
                 a.peak = at<void>(peak);
                 a.log_sum = at<void>(log_sum);
                 a.threads = threads;
                 return a;
             }),
             py::kw_only(), py::arg("dtype"), py::arg("out_dtype"), py::arg("sizes"), py::arg("query"), py::arg("key"),
             py::arg("value"), py::arg("homography"), py::arg("homography_batch"), py::arg("neighbors"),
             py::arg("bias"), py::arg("heads"), py::arg("window"), py::arg("scale"), py::arg("out"), py::arg("peak"),
             py::arg("log_sum"), py::arg("threads") = 1)
        .def(
            "placed",
            [](AlignArguments a, py::handle query, py::handle key, py::handle value, py::handle homography,
               py::handle neighbors, py::handle bias, py::handle out, py::handle peak, py::handle log_sum) {
                a.query.data = place_of(query);
                a.key.data = place_of(key);
                a.value.data = place_of(value);
                a.homography = place_of(homography);
                a.neighbors = reinterpret_cast<const std::int64_t*>(place_of(neighbors));
                a.bias = place_of(bias);
                a.out.data = place_of(out);
                a.peak = place_of(peak);
                a.log_sum = place_of(log_sum);
                return a;
            },
            "The same arguments of tensors that lie elsewhere.");
}

inline void bind_align_gradients(pybind11::module_& m) {
    namespace py = pybind11;
    py::class_<AlignGradients>(m, "AlignGradients", py::module_local())
        .def(py::init([](const PlacedImage& grad_out, Pointer grad_log_sum, Pointer query, Pointer key, Pointer value,
                         Pointer homography, Pointer bias) {
                 return AlignGradients{align_image(grad_out), at<void>(grad_log_sum), at<void>(query), at<void>(key),
                                       at<void>(value),       at<double>(homography), at<double>(bias)};
             }),
             py::kw_only(), py::arg("grad_out"), py::arg("grad_log_sum"), py::arg("query"), py::arg("key"),
             py::arg("value"), py::arg("homography"), py::arg("bias"));
}

}  // namespace vsad
