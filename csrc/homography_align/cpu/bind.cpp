#include <vector>

#include "cpu/bind.h"
#include "homography_align/cpu/kernels.h"

namespace py = pybind11;

namespace vsad {
namespace {

// (data pointer, five strides)
Image image(const std::array<std::int64_t, 6>& t) {
    return {at<char>(static_cast<Pointer>(t[0])), t[1], t[2], t[3], t[4], t[5]};
}

std::vector<Edge> rank_edges(const std::vector<std::array<std::int64_t, 3>>& edges, const AlignArguments& a) {
    std::vector<Edge> ranked;
    std::vector<std::int64_t> of_source(a.S), of_target(a.V);
    for (const auto& [v, n, s] : edges) ranked.push_back({v, n, s, of_source[s]++, 0, of_target[v]++, 0});
    for (Edge& edge : ranked) {
        edge.source_count = of_source[edge.s];
        edge.target_count = of_target[edge.v];
    }
    return ranked;
}

}  // namespace

void bind_homography_align(py::module_& m) {
    using Five = std::array<std::int64_t, 6>;
    py::class_<AlignArguments>(m, "AlignArguments")
        .def(py::init([](int dtype, int heads, int window, int threads, double scale,
                         const std::array<std::int64_t, 10>& sizes, const Five& query, const Five& key,
                         const Five& value, const Five& out, bool wide_out, Pointer homography,
                         std::int64_t homography_batch, Pointer neighbors, Pointer bias, Pointer lse) {
                 const auto& [B, V, S, N, C, Cv, H, W, Hs, Ws] = sizes;
                 return AlignArguments{static_cast<Scalar>(dtype),
                                       heads,
                                       window,
                                       threads,
                                       scale,
                                       B,
                                       V,
                                       S,
                                       N,
                                       C,
                                       Cv,
                                       H,
                                       W,
                                       Hs,
                                       Ws,
                                       image(query),
                                       image(key),
                                       image(value),
                                       image(out),
                                       wide_out,
                                       at<void>(homography),
                                       homography_batch,
                                       at<std::int64_t>(neighbors),
                                       at<void>(bias),
                                       at<void>(lse)};
             }),
             py::kw_only(), py::arg("dtype"), py::arg("heads"), py::arg("window"), py::arg("threads"), py::arg("scale"),
             py::arg("sizes"), py::arg("query"), py::arg("key"), py::arg("value"), py::arg("out"), py::arg("wide_out"),
             py::arg("homography"), py::arg("homography_batch"), py::arg("neighbors"), py::arg("bias"), py::arg("lse"));
    m.def(
        "homography_align_forward",
        [](const AlignArguments& arguments) {
            run_parallel(VSAD_CHOOSE(homography_align_forward)(arguments), &arguments);
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "homography_align_backward",
        [](const AlignArguments& forward, const Five& grad_out, Pointer grad_lse, Pointer query, Pointer key,
           Pointer value, Pointer homography, Pointer bias, const std::vector<std::array<std::int64_t, 3>>& edges) {
            std::vector<Edge> ranked = rank_edges(edges, forward);
            std::vector<std::int64_t> turns(forward.B * (forward.V + forward.S) * forward.heads * kTurnStride);
            const AlignGradients gradients{forward,
                                           image(grad_out),
                                           at<void>(grad_lse),
                                           at<void>(query),
                                           at<void>(key),
                                           at<void>(value),
                                           at<double>(homography),
                                           at<double>(bias),
                                           ranked.data(),
                                           static_cast<std::int64_t>(ranked.size()),
                                           turns.data()};
            const py::gil_scoped_release release;
            run_parallel(VSAD_CHOOSE(homography_align_backward)(gradients), &gradients);
        },
        py::arg("forward"), py::kw_only(), py::arg("grad_out"), py::arg("grad_lse"), py::arg("query"), py::arg("key"),
        py::arg("value"), py::arg("homography"), py::arg("bias"), py::arg("edges"));
}

const Bindings bindings(&bind_homography_align);

}  // namespace vsad
