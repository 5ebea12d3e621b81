// vsad._cpu: raw pointers, shapes and strides in, numbers out. Python owns checks and allocation.
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/bind.h"

namespace vsad {
namespace {

#define VSAD_NAME(isa, ...) #isa,
constexpr const char* kIsas[] = {VSAD_FOR_EACH_ISA(VSAD_NAME)};
#undef VSAD_NAME
constexpr int kIsaCount = sizeof kIsas / sizeof kIsas[0];

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

int best_isa() {
    int best = 0;
    for (int i = 0; i < kIsaCount; ++i)
        if (runs_here(kIsas[i])) best = i;
    return best;
}

int chosen = best_isa();

void set_isa(const std::string& name) {
    for (int i = 0; i < kIsaCount; ++i) {
        if (name != kIsas[i]) continue;
        if (!runs_here(name)) throw std::invalid_argument("set_isa: this processor does not run " + name);
        chosen = i;
        return;
    }
    throw std::invalid_argument("set_isa: name must be one this module was built for, got " + name);
}

}  // namespace

int isa_index() { return chosen; }

}  // namespace vsad

PYBIND11_MODULE(_cpu, m) {
    using namespace vsad;
    m.doc() = "Compiled CPU kernels of vsad; call them through vsad.ops.";
    m.def("isa", [] { return std::string(kIsas[chosen]); }, "The instruction set in use.");
    m.def(
        "isas",
        [] {
            std::vector<std::string> names;
            for (const char* name : kIsas)
                if (runs_here(name)) names.emplace_back(name);
            return names;
        },
        "The instruction sets that this module holds and this processor runs, slowest first.");
    m.def("set_isa", &set_isa, pybind11::arg("name"), "Use this instruction set from now on; the tests compare them.");
    bind_greedy_coreset(m);
    bind_homography_align(m);
    bind_prototype_distance(m);
}
