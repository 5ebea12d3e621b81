#include <algorithm>
#include <vector>

#include "cpu/bind.h"
#include "cpu/prototype_distance.h"

namespace py = pybind11;

namespace vsad {
namespace {

void prototype_distance(DistanceArguments& a) {
    if (VSAD_CHOOSE(distance_screens)(a)) {
        std::vector<float> offset(a.P);
        a.offset = offset.data();
        run_parallel(VSAD_CHOOSE(distance_prepare)(a), &a);
        run_parallel(VSAD_CHOOSE(distance_screen)(a), &a);
    } else {
        // Few features leave threads idle unless the bank is shared out; a chunk holds k prototypes at least.
        const std::int64_t blocks = std::max<std::int64_t>(1, (a.M + kBruteRows - 1) / kBruteRows);
        const std::int64_t most = a.P / std::max<std::int64_t>(a.k, 256);
        a.chunks = std::max<std::int64_t>(1, std::min<std::int64_t>(2 * a.threads / blocks, most));
        std::vector<Candidate> candidates(a.chunks * a.M * a.k);
        a.candidates = candidates.data();
        run_parallel(VSAD_CHOOSE(distance_brute)(a), &a);
        run_parallel(VSAD_CHOOSE(distance_merge)(a), &a);
    }
}

}  // namespace

void bind_prototype_distance(py::module_& m) {
    // (data pointer, two strides)
    using Two = std::array<std::int64_t, 3>;
    const auto matrix = [](const Two& t) { return Matrix{at<char>(static_cast<Pointer>(t[0])), t[1], t[2]}; };
    m.def(
        "prototype_distance",
        [matrix](int dtype, int metric, int threads, const std::array<std::int64_t, 4>& sizes, const Two& features,
                 const Two& prototypes, Pointer distances, Pointer indices, Pointer center) {
            const auto& [M, P, C, k] = sizes;
            DistanceArguments a{static_cast<Scalar>(dtype),
                                static_cast<Metric>(metric),
                                threads,
                                M,
                                P,
                                C,
                                k,
                                matrix(features),
                                matrix(prototypes),
                                at<void>(distances),
                                at<std::int64_t>(indices),
                                at<float>(center),
                                nullptr,
                                1,
                                nullptr};
            const py::gil_scoped_release release;
            prototype_distance(a);
        },
        py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("threads"), py::arg("sizes"), py::arg("features"),
        py::arg("prototypes"), py::arg("distances"), py::arg("indices"), py::arg("center"));
}

}  // namespace vsad
