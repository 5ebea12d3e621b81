// vsad._cpu: raw pointers, shapes and strides in, numbers out. Python owns checks and allocation.
#if defined(__linux__) && defined(VSAD_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/bind.h"
#include "prototype_distance/cpu/int8.h"

namespace vsad {
namespace {

#define VSAD_NAME(isa, ...) #isa,
constexpr const char* kIsas[] = {VSAD_FOR_EACH_ISA(VSAD_NAME) VSAD_FOR_EACH_INT8(VSAD_NAME)};
#undef VSAD_NAME
#define VSAD_ONE(isa, ...) +1
constexpr int kIsaCount = sizeof kIsas / sizeof kIsas[0], kCompleteCount = VSAD_FOR_EACH_ISA(VSAD_ONE);
#undef VSAD_ONE

// Linux lends the registers of tiles to those who ask for them, once a process.
bool has_tiles() {
#if defined(__linux__) && defined(VSAD_AMX)
    constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    const bool amx_tile = d >> 24 & 1, amx_int8 = d >> 25 & 1;
    return amx_tile && amx_int8 && syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return false;
#endif
}

bool runs_here(const std::string& name) {
#ifdef VSAD_X86
    __builtin_cpu_init();
    // every processor with AVX2 converts halves too (F16C); GCC 9 and 10 cannot ask for it
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (name == "avx2") return avx2;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (name == "avx512") return avx512;
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    if (name == "avx512_vnni") return vnni;
    if (name == "amx") return vnni && has_tiles();
#endif
    return name == "baseline";
}

int best_isa() {
    int best = 0;
    for (int i = 0; i < kIsaCount; ++i)
        if (runs_here(kIsas[i])) best = i;
    return best;
}

// Asked for when first needed: to look for AMX is to ask the system for it.
int& chosen() {
    static int place = best_isa();
    return place;
}

void set_isa(const std::string& name) {
    for (int i = 0; i < kIsaCount; ++i) {
        if (name != kIsas[i]) continue;
        if (!runs_here(name)) throw std::invalid_argument("set_isa: this processor does not run " + name);
        chosen() = i;
        return;
    }
    throw std::invalid_argument("set_isa: name must be one this module was built for, got " + name);
}

}  // namespace

int isa_index() { return chosen() < kCompleteCount ? chosen() : kCompleteCount - 1; }

const Int8Kernels* int8_kernels() {
#define VSAD_KERNELS(isa, ...) &isa::kInt8Kernels,
    const Int8Kernels* const rows[] = {nullptr, VSAD_FOR_EACH_INT8(VSAD_KERNELS)};
#undef VSAD_KERNELS
    return rows[chosen() < kCompleteCount ? 0 : chosen() - kCompleteCount + 1];
}

}  // namespace vsad

PYBIND11_MODULE(_cpu, m) {
    using namespace vsad;
    m.doc() = "Compiled CPU kernels of vsad; call them through vsad.ops.";
    m.def("isa", [] { return std::string(kIsas[chosen()]); }, "The instruction set in use.");
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
    bind_homography_warp(m);
    bind_prototype_distance(m);
}
