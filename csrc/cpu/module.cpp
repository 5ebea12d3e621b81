// vsad._cpu: raw pointers, shapes and strides in, numbers out. Python owns checks and allocation.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace py = pybind11;

namespace vsad {
namespace {

struct Isa {
    const char* name;
};

#define VSAD_ROW(isa) {#isa},
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
    m.def("set_isa", &set_isa, py::arg("name"),
          "Use this instruction set from now on; the tests compare them.");
}
