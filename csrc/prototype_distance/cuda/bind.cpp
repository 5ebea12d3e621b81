#include "cuda/bind.h"
#include "prototype_distance/cuda/kernels.h"

namespace py = pybind11;

namespace vsad {
namespace cuda {
namespace {

using Two = std::array<std::int64_t, 2>;  // (data pointer, elements from row to row)

Matrix matrix(const Two& t) { return {at<void>(static_cast<Pointer>(t[0])), t[1], 1}; }

void place_bank(DistanceArguments& a, Pointer memory) {
    a.bank = lay_out_bank(at<char>(memory), a, a.screen != Screen::none, a.formats[int(Format::int8)]);
}

void bind_prototype_distance(py::module_& m) {
    py::class_<DistanceArguments>(m, "DistanceArguments")
        .def(py::init([](int dtype, int metric, int screen, const std::array<bool, 2>& formats,
                         const std::array<std::int64_t, 4>& sizes, const Two& features, const Two& prototypes,
                         Pointer distances, Pointer indices) {
                 DistanceArguments a{};
                 a.dtype = static_cast<Scalar>(dtype);
                 a.metric = static_cast<Metric>(metric);
                 a.screen = static_cast<Screen>(screen);
                 a.formats[0] = formats[0], a.formats[1] = formats[1];
                 a.M = sizes[0], a.P = sizes[1], a.C = sizes[2], a.k = sizes[3];
                 a.features = matrix(features);
                 a.prototypes = matrix(prototypes);
                 a.distances = at<void>(distances);
                 a.indices = at<std::int64_t>(indices);
                 place_bank(a, 0);
                 return a;
             }),
             py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("screen"), py::arg("formats"),
             py::arg("sizes"), py::arg("features"), py::arg("prototypes"), py::arg("distances"), py::arg("indices"))
        .def_property_readonly("bank_bytes", [](const DistanceArguments& a) { return a.bank.bytes; })
        .def_property_readonly("work_bytes",
                               [](const DistanceArguments& a) { return lay_out_workspace(nullptr, a).bytes; })
        .def("place_bank", &place_bank, py::arg("memory"))
        .def("place_work",
             [](DistanceArguments& a, Pointer memory) { a.work = lay_out_workspace(at<char>(memory), a); });
    m.def("pack_prototypes",
          [](const DistanceArguments& arguments, Pointer stream) { pack_prototypes(arguments, stream_at(stream)); });
    m.def("prototype_distance",
          [](const DistanceArguments& arguments, Pointer stream) { screened_search(arguments, stream_at(stream)); });
    m.def(
        "prototype_distance_choice",
        [](const std::array<std::int64_t, 4>& sizes, bool packed) {
            const Choice c = choose(sizes[0], sizes[1], sizes[2], sizes[3], packed);
            return std::make_tuple(static_cast<int>(c.screen), c.formats);
        },
        py::arg("sizes"), py::arg("packed"), "The screen and the formats that serve a call best.");
    m.def(
        "prototype_distance_backward",
        [](int dtype, int metric, const std::array<std::int64_t, 4>& sizes, const Two& features, const Two& prototypes,
           Pointer indices, Pointer grad_distances, const std::array<Pointer, 2>& grads, Pointer weights,
           Pointer chosen, Pointer begin, Pointer stream) {
            DistanceGradientArguments a{};
            a.dtype = static_cast<Scalar>(dtype);
            a.metric = static_cast<Metric>(metric);
            a.M = sizes[0], a.P = sizes[1], a.C = sizes[2], a.k = sizes[3];
            a.features = matrix(features);
            a.prototypes = matrix(prototypes);
            a.indices = at<std::int64_t>(indices);
            a.grad_distances = at<void>(grad_distances);
            a.grad_features = at<void>(grads[0]);
            a.grad_prototypes = at<void>(grads[1]);
            a.weights = at<float4>(weights);
            a.sorted_pairs = at<std::int64_t>(chosen);
            a.begin = at<std::int64_t>(begin);
            prototype_distance_backward(a, stream_at(stream));
        },
        py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("sizes"), py::arg("features"),
        py::arg("prototypes"), py::arg("indices"), py::arg("grad_distances"), py::arg("grads"), py::arg("weights"),
        py::arg("chosen"), py::arg("begin"), py::arg("stream"));
}

const Bindings bindings(&bind_prototype_distance);

}  // namespace
}  // namespace cuda
}  // namespace vsad
