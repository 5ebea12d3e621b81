// vsad._cpu: raw pointers, shapes and strides in, numbers out. Python owns checks and allocation.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/homography_align.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/prototype_distance.h"

namespace py = pybind11;

namespace vsad {
namespace {

struct Isa {
    const char* name;
    Work (*homography_align_forward)(const AlignArguments&);
    Work (*homography_align_backward)(const AlignGradients&);
    bool (*distance_screens)(const DistanceArguments&);
    Work (*distance_prepare)(const DistanceArguments&);
    Work (*distance_screen)(const DistanceArguments&);
    Work (*distance_brute)(const DistanceArguments&);
    Work (*distance_merge)(const DistanceArguments&);
};

#define VSAD_ROW(isa)                 \
    {#isa,                            \
     &isa::homography_align_forward,  \
     &isa::homography_align_backward, \
     &isa::distance_screens,          \
     &isa::distance_prepare,          \
     &isa::distance_screen,           \
     &isa::distance_brute,            \
     &isa::distance_merge},
constexpr Isa kIsas[] = {VSAD_FOR_EACH_ISA(VSAD_ROW)};
#undef VSAD_ROW

bool runs_here(const std::string& name) {
#ifdef VSAD_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (name == "avx2") return avx2;
    if (name == "avx512")
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return name == "baseline";
}

const Isa* best_isa() {
    const Isa* best = kIsas;
    for (const Isa& isa : kIsas)
        if (runs_here(isa.name)) best = &isa;
    return best;
}

const Isa* chosen = best_isa();

void set_isa(const std::string& name) {
    for (const Isa& isa : kIsas) {
        if (name != isa.name) continue;
        if (!runs_here(name)) throw std::invalid_argument("set_isa: this processor does not run " + name);
        chosen = &isa;
        return;
    }
    throw std::invalid_argument("set_isa: name must be one this module was built for, got " + name);
}

using Pointer = std::uintptr_t;

template <typename T>
T* at(Pointer address) {
    return reinterpret_cast<T*>(address);
}

// (data pointer, five strides)
Image image(const std::array<std::int64_t, 6>& t) {
    return {at<char>(static_cast<Pointer>(t[0])), t[1], t[2], t[3], t[4], t[5]};
}

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
        [](const AlignArguments& arguments) { run_parallel(chosen->homography_align_forward(arguments), &arguments); },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "homography_align_backward",
        [](const AlignArguments& forward, const Five& grad_out, Pointer grad_lse, Pointer query, Pointer key,
           Pointer value, Pointer homography, Pointer bias, Pointer edges, const std::vector<std::int64_t>& rounds) {
            AlignGradients gradients{
                forward,         image(grad_out),        at<void>(grad_lse), at<void>(query), at<void>(key),
                at<void>(value), at<double>(homography), at<double>(bias),   at<Edge>(edges), 0};
            const py::gil_scoped_release release;
            for (const std::int64_t count : rounds) {
                gradients.edge_count = count;
                run_parallel(chosen->homography_align_backward(gradients), &gradients);
                gradients.edges += count;
            }
        },
        py::arg("forward"), py::kw_only(), py::arg("grad_out"), py::arg("grad_lse"), py::arg("query"), py::arg("key"),
        py::arg("value"), py::arg("homography"), py::arg("bias"), py::arg("edges"), py::arg("rounds"));
}

void prototype_distance(DistanceArguments& a) {
    if (chosen->distance_screens(a)) {
        std::vector<float> offset(a.P);
        a.offset = offset.data();
        run_parallel(chosen->distance_prepare(a), &a);
        run_parallel(chosen->distance_screen(a), &a);
    } else {
        // Few features leave threads idle unless the bank is shared out; a chunk holds k prototypes at least.
        const std::int64_t blocks = std::max<std::int64_t>(1, (a.M + kBruteRows - 1) / kBruteRows);
        const std::int64_t most = a.P / std::max<std::int64_t>(a.k, 256);
        a.chunks = std::max<std::int64_t>(1, std::min<std::int64_t>(2 * a.threads / blocks, most));
        std::vector<Candidate> candidates(a.chunks * a.M * a.k);
        a.candidates = candidates.data();
        run_parallel(chosen->distance_brute(a), &a);
        run_parallel(chosen->distance_merge(a), &a);
    }
}

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

}  // namespace
}  // namespace vsad

PYBIND11_MODULE(_cpu, m) {
    using namespace vsad;
    m.doc() = "Compiled CPU kernels of vsad; call them through vsad.ops.";
    m.def("isa", [] { return std::string(chosen->name); }, "The instruction set in use.");
    m.def(
        "isas",
        [] {
            std::vector<std::string> names;
            for (const Isa& isa : kIsas)
                if (runs_here(isa.name)) names.emplace_back(isa.name);
            return names;
        },
        "The instruction sets that this module holds and this processor runs, slowest first.");
    m.def("set_isa", &set_isa, py::arg("name"), "Use this instruction set from now on; the tests compare them.");
    bind_homography_align(m);
    bind_prototype_distance(m);
}
