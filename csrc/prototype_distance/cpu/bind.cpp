#include "cpu/bind.h"
#include "prototype_distance/cpu/search.h"

namespace py = pybind11;

namespace vsad {
namespace {

using Two = std::array<std::int64_t, 3>;  // (data pointer, two strides)

Matrix matrix(const Two& t) { return {at<char>(static_cast<Pointer>(t[0])), t[1], t[2]}; }

DistanceArguments describe(int dtype, int metric, int threads, std::int64_t P, std::int64_t C, const Two& prototypes) {
    DistanceArguments a{};
    a.dtype = static_cast<Scalar>(dtype);
    a.metric = static_cast<Metric>(metric);
    a.threads = threads;
    a.P = P;
    a.C = C;
    a.prototypes = matrix(prototypes);
    return a;
}

void bind_prototype_distance(py::module_& m) {
    m.def(
        "prototype_distance",
        [](int dtype, int metric, int threads, const std::array<std::int64_t, 4>& sizes, const Two& features,
           const Two& prototypes, Pointer distances, Pointer indices, Pointer center, Pointer packed) {
            DistanceArguments a = describe(dtype, metric, threads, sizes[1], sizes[2], prototypes);
            a.M = sizes[0];
            a.k = sizes[3];
            a.features = matrix(features);
            a.distances = at<void>(distances);
            a.indices = at<std::int64_t>(indices);
            const py::gil_scoped_release release;
            search(a, at<char>(packed), at<float>(center));
        },
        py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("threads"), py::arg("sizes"), py::arg("features"),
        py::arg("prototypes"), py::arg("distances"), py::arg("indices"), py::arg("center"), py::arg("packed"));
    m.def(
        "prototype_distance_backward",
        [](int dtype, int metric, int threads, const std::array<std::int64_t, 4>& sizes, const Two& features,
           const Two& prototypes, Pointer indices, Pointer grad_distances, Pointer grad_features,
           Pointer grad_prototypes) {
            DistanceGradientArguments a{};
            a.dtype = static_cast<Scalar>(dtype);
            a.metric = static_cast<Metric>(metric);
            a.threads = threads;
            a.M = sizes[0], a.P = sizes[1], a.C = sizes[2], a.k = sizes[3];
            a.features = matrix(features);
            a.prototypes = matrix(prototypes);
            a.indices = at<std::int64_t>(indices);
            a.grad_distances = at<void>(grad_distances);
            a.grad_features = at<void>(grad_features);
            a.grad_prototypes = at<void>(grad_prototypes);
            const py::gil_scoped_release release;
            backward(a);
        },
        py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("threads"), py::arg("sizes"), py::arg("features"),
        py::arg("prototypes"), py::arg("indices"), py::arg("grad_distances"), py::arg("grad_features"),
        py::arg("grad_prototypes"));
    m.def(
        "packed_bytes",
        [](std::int64_t P, std::int64_t C) { return can_pack(P, C) ? lay_out_bank(nullptr, P, C, true).bytes : 0; },
        py::arg("P"), py::arg("C"), "The size of a packed bank; 0 where packing would not help.");
    m.def(
        "pack_prototypes",
        [](int dtype, int metric, int threads, const std::array<std::int64_t, 2>& sizes, const Two& prototypes,
           Pointer center, Pointer packed) {
            DistanceArguments a = describe(dtype, metric, threads, sizes[0], sizes[1], prototypes);
            const py::gil_scoped_release release;
            pack(a, at<char>(packed), at<float>(center), true);
        },
        py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("threads"), py::arg("sizes"), py::arg("prototypes"),
        py::arg("center"), py::arg("packed"));
}

const Bindings bindings(&bind_prototype_distance);

}  // namespace
}  // namespace vsad
