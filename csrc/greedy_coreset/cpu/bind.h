// greedy_coreset as a Python function of vsad._cpu.
#pragma once
#include "cpu/bind.h"
#include "greedy_coreset/cpu/rounds.h"

namespace vsad {

inline void bind_greedy_coreset(py::module_& m) {
    m.def(
        "greedy_coreset",
        [](int dtype, int threads, const std::array<std::int64_t, 3>& sizes,
           const std::array<std::int64_t, 2>& features, Pointer center, Pointer picks) {
            CoresetArguments a{};
            a.dtype = static_cast<Scalar>(dtype);
            a.threads = threads;
            a.M = sizes[0];
            a.C = sizes[1];
            a.size = sizes[2];
            a.features = at<char>(static_cast<Pointer>(features[0]));
            a.stride = features[1];
            a.center = at<float>(center);
            a.picks = at<std::int64_t>(picks);
            const LongCall call;
            greedy_coreset(a);
        },
        py::kw_only(), py::arg("dtype"), py::arg("threads"), py::arg("sizes"), py::arg("features"), py::arg("center"),
        py::arg("picks"));
}

}  // namespace vsad
