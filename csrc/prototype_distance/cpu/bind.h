// prototype_distance as a Python function of vsad._cpu.
#pragma once
#include "cpu/bind.h"
#include "prototype_distance/binding.h"
#include "prototype_distance/cpu/int8.h"
#include "prototype_distance/cpu/search.h"

namespace vsad {

inline DistanceArguments arguments_of(const DistanceOperands& operands, int threads) {
    DistanceArguments a{};
    static_cast<DistanceOperands&>(a) = operands;
    a.threads = threads;
    return a;
}

inline void bind_prototype_distance(py::module_& m) {
    bind_operands(m);
    m.def(
        "prototype_distance",
        [](const DistanceOperands& operands, Pointer packed, Pointer center, Pointer distances, Pointer indices,
           int threads) {
            DistanceArguments a = arguments_of(operands, threads);
            a.distances = at<void>(distances);
            a.indices = at<std::int64_t>(indices);
            const LongCall call;
            search(a, at<char>(packed), at<float>(center));
        },
        py::arg("operands"), py::kw_only(), py::arg("packed"), py::arg("center"), py::arg("distances"),
        py::arg("indices"), py::arg("threads"));
    m.def("prototype_distance_packs", &packs, py::arg("operands"),
          "Whether a call without a packed bank packs one, and needs its center.");
    m.def(
        "prototype_distance_backward",
        [](const DistanceOperands& operands, Pointer indices, Pointer grad_distances,
           const std::array<Pointer, 2>& grads, int threads) {
            DistanceGradientArguments a{};
            static_cast<DistanceOperands&>(a) = operands;
            a.threads = threads;
            a.indices = at<std::int64_t>(indices);
            a.grad_distances = at<void>(grad_distances);
            a.grad_features = at<void>(grads[0]);
            a.grad_prototypes = at<void>(grads[1]);
            const LongCall call;
            backward(a);
        },
        py::arg("operands"), py::kw_only(), py::arg("indices"), py::arg("grad_distances"), py::arg("grads"),
        py::arg("threads"));
    m.def(
        "packed_bytes",
        [](std::int64_t P, std::int64_t C) { return can_pack(P, C) ? lay_out_bank(nullptr, P, C, true).bytes : 0; },
        py::arg("P"), py::arg("C"), "The size of a packed bank; 0 where packing would not help.");
    m.def(
        "pack_prototypes",
        [](const DistanceOperands& operands, Pointer packed, Pointer center, int threads) {
            DistanceArguments a = arguments_of(operands, threads);
            const LongCall call;
            pack(a, at<char>(packed), at<float>(center), true);
        },
        py::arg("operands"), py::kw_only(), py::arg("packed"), py::arg("center"), py::arg("threads"));
}

const Int8Kernels* int8_kernels() {
#define VSAD_INT8_KERNELS(isa, ...) &isa::kInt8Kernels,
    static const Int8Kernels* const rows[] = {nullptr, VSAD_FOR_EACH_INT8(VSAD_INT8_KERNELS)};
#undef VSAD_INT8_KERNELS
    return rows[int8_isa_index() + 1];
}

}  // namespace vsad
