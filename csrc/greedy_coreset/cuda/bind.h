// greedy_coreset as a Python function of vsad._cuda.
#pragma once
#include "cuda/bind.h"
#include "greedy_coreset/cuda/kernels.h"

namespace vsad {
namespace cuda {

inline void bind_greedy_coreset(py::module_& m) {
    m.def(
        "greedy_coreset_workspace",
        [](std::int64_t M, std::int64_t C, int dtype) { return coreset_workspace(M, C, static_cast<Scalar>(dtype)); },
        py::arg("M"), py::arg("C"), py::arg("dtype"));
    m.def(
        "greedy_coreset",
        [](int dtype, const std::array<std::int64_t, 4>& sizes, const std::array<std::int64_t, 2>& features,
           Pointer center, Pointer spread, Pointer picks, Pointer workspace, Pointer stream) {
            const auto& [M, C, size, start] = sizes;
            greedy_coreset(
                {static_cast<Scalar>(dtype), M, C, size, start, at<char>(static_cast<Pointer>(features[0])),
                 features[1], at<float>(center), at<float>(spread), at<std::int64_t>(picks), at<void>(workspace)},
                stream_at(stream));
        },
        py::kw_only(), py::arg("dtype"), py::arg("sizes"), py::arg("features"), py::arg("center"), py::arg("spread"),
        py::arg("picks"), py::arg("workspace"), py::arg("stream"));
}

}  // namespace cuda
}  // namespace vsad
