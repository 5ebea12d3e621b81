// What the bindings of the CPU kernels and of the CUDA kernels share: the operands of a call.
#pragma once
#include <stdexcept>

#include "common/bind.h"
#include "prototype_distance/arguments.h"

namespace vsad {

// A matrix as `matrix` of vsad/ops/common/tensors.py describes it.
using MatrixTuple = std::array<std::int64_t, 6>;  // data pointer, dtype, rows, columns, row stride, column stride

inline DistanceOperands operands_of(const MatrixTuple& features, const MatrixTuple& prototypes, std::int64_t k,
                                    int metric) {
    const auto& [f_data, dtype, M, C, f_row, f_column] = features;
    const auto& [p_data, p_dtype, P, p_columns, p_row, p_column] = prototypes;
    if (dtype != p_dtype || C != p_columns) throw std::invalid_argument("DistanceOperands: the matrices do not match");
    return {static_cast<Scalar>(dtype),
            static_cast<Metric>(metric),
            M,
            P,
            C,
            k,
            {at<void>(static_cast<Pointer>(f_data)), f_row, f_column},
            {at<void>(static_cast<Pointer>(p_data)), p_row, p_column}};
}

// Local to the module: vsad._cpu and vsad._cuda both have this class.
inline void bind_operands(pybind11::module_& m) {
    namespace py = pybind11;
    py::class_<DistanceOperands>(m, "DistanceOperands", py::module_local())
        .def(py::init(&operands_of), py::arg("features"), py::arg("prototypes"), py::arg("k"), py::arg("metric"))
        .def(
            "placed",
            [](DistanceOperands a, py::handle features, py::handle prototypes) {
                a.features.data = place_of(features);
                a.prototypes.data = place_of(prototypes);
                return a;
            },
            "The same operands of tensors that lie elsewhere.");
}

}  // namespace vsad
