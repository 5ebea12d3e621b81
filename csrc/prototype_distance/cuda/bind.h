// prototype_distance as a Python function of vsad._cuda.
#pragma once
#include "cuda/bind.h"
#include "prototype_distance/binding.h"
#include "prototype_distance/cuda/kernels.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {

inline void place_bank(DistanceArguments& a, char* memory) {
    a.bank = lay_out_bank(memory, a, a.screen != Screen::none, a.formats[int(Format::int8)]);
}

inline DistanceArguments arguments_of(const DistanceOperands& operands, int screen,
                                      const std::array<bool, kFormats>& formats) {
    DistanceArguments a{};
    static_cast<DistanceOperands&>(a) = operands;
    a.screen = static_cast<Screen>(screen);
    for (int format = 0; format < kFormats; ++format) a.formats[format] = formats[format];
    place_bank(a, nullptr);  // counts its bytes
    return a;
}

inline void bind_backward(py::module_& m) {
    m.def(
        "prototype_distance_backward",
        [](const DistanceOperands& operands, Pointer indices, Pointer grad_distances,
           const std::array<Pointer, 2>& grads, Pointer weights, const std::array<Pointer, 2>& pairs, Pointer stream) {
            DistanceGradientArguments a{};
            static_cast<DistanceOperands&>(a) = operands;
            a.indices = at<std::int64_t>(indices);
            a.grad_distances = at<void>(grad_distances);
            a.grad_features = at<void>(grads[0]);
            a.grad_prototypes = at<void>(grads[1]);
            a.weights = at<float4>(weights);
            a.sorted_pairs = at<std::int64_t>(pairs[0]);
            a.begin = at<std::int64_t>(pairs[1]);
            prototype_distance_backward(a, stream_at(stream));
        },
        py::arg("operands"), py::kw_only(), py::arg("indices"), py::arg("grad_distances"), py::arg("grads"),
        py::arg("weights"), py::arg("pairs"), py::arg("stream"));
}

inline void bind_prototype_distance(py::module_& m) {
    bind_operands(m);
    py::class_<DistanceArguments>(m, "DistanceArguments")
        .def(py::init(&arguments_of), py::arg("operands"), py::arg("screen"), py::arg("formats"))
        .def_property_readonly("bank_bytes", [](const DistanceArguments& a) { return a.bank.bytes; })
        .def_property_readonly("work_bytes",
                               [](const DistanceArguments& a) { return lay_out_workspace(nullptr, a).bytes; })
        .def(
            "placed",
            [](DistanceArguments a, py::handle features, py::handle prototypes, py::handle bank, py::handle work) {
                a.features.data = place_of(features);
                a.prototypes.data = place_of(prototypes);
                place_bank(a, place_of(bank));
                a.work = lay_out_workspace(place_of(work), a);
                return a;
            },
            "The same arguments of tensors that lie elsewhere, with their bank and workspace.");
    m.def(
        "pack_prototypes", [](const DistanceArguments& a, Pointer stream) { pack_prototypes(a, stream_at(stream)); },
        py::arg("arguments"), py::arg("stream"));
    m.def(
        "prototype_distance",
        [](DistanceArguments a, Pointer distances, Pointer indices, Pointer stream) {
            a.distances = at<void>(distances);
            a.indices = at<std::int64_t>(indices);
            screened_search(a, stream_at(stream));
        },
        py::arg("arguments"), py::kw_only(), py::arg("distances"), py::arg("indices"), py::arg("stream"));
    m.def(
        "prototype_distance_choice",
        [](const std::array<std::int64_t, 4>& sizes, bool packed) {
            const Choice c = choose(sizes[0], sizes[1], sizes[2], sizes[3], packed);
            return std::make_tuple(static_cast<int>(c.screen), c.formats);
        },
        py::arg("sizes"), py::arg("packed"), "The screen and the formats that serve a call of sizes M, P, C, k best.");
    bind_backward(m);
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
