// homography_align as a Python function of vsad._cpu.
#pragma once
#include <algorithm>
#include <vector>

#include "cpu/bind.h"
#include "homography_align/binding.h"
#include "homography_align/cpu/kernels.h"

namespace vsad {

inline std::vector<Edge> rank_edges(const std::vector<std::array<std::int64_t, 3>>& edges, const AlignArguments& a) {
    std::vector<Edge> ranked;
    std::vector<std::int64_t> edges_of_source(a.S), edges_of_target(a.V);
    for (const auto& [v, n, s] : edges) ranked.push_back({v, n, s, edges_of_source[s]++, 0, edges_of_target[v]++, 0});
    for (Edge& edge : ranked) {
        edge.source_count = edges_of_source[edge.s];
        edge.target_count = edges_of_target[edge.v];
    }
    return ranked;
}

inline void bind_homography_align(py::module_& m) {
    bind_align_arguments(m);
    bind_align_gradients(m);
    m.def(
        "homography_align_forward",
        [](const AlignArguments& arguments) {
            run_parallel(VSAD_CHOOSE(homography_align_forward)(arguments), &arguments);
        },
        py::arg("arguments"), py::call_guard<LongCall>());
    m.def(
        "homography_align_has_sources",
        [](const AlignArguments& a) {
            const auto is_source = [&](std::int64_t s) { return -1 <= s && s < a.S; };
            return std::all_of(a.neighbors, a.neighbors + a.V * a.N, is_source);
        },
        "Whether every neighbor is a source view, or an empty slot.", py::arg("arguments"));
    m.def(
        "homography_align_translates",
        [](const AlignArguments& arguments) { return VSAD_CHOOSE(homography_align_translates)(arguments); },
        py::arg("arguments"));
    m.def(
        "homography_align_translation",
        [](const AlignArguments& arguments) {
            run_parallel(VSAD_CHOOSE(homography_align_translation)(arguments), &arguments);
        },
        py::arg("arguments"), py::call_guard<LongCall>());
    m.def(
        "homography_align_backward",
        [](const AlignArguments& forward, const AlignGradients& gradients,
           const std::vector<std::array<std::int64_t, 3>>& edges) {
            const std::vector<Edge> ranked = rank_edges(edges, forward);
            std::vector<std::int64_t> turns(forward.B * (forward.V + forward.S) * forward.heads * kTurnStride);
            const AlignBackwardArguments arguments{gradients, forward, ranked.data(),
                                                   static_cast<std::int64_t>(ranked.size()), turns.data()};
            const LongCall call;
            run_parallel(VSAD_CHOOSE(homography_align_backward)(arguments), &arguments);
        },
        py::arg("forward"), py::arg("gradients"), py::arg("edges"));
}

}  // namespace vsad
