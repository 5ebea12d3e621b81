// vsad._cpu: raw pointers, shapes and strides in, numbers out. Python owns checks and allocation.
#if defined(__linux__) && defined(VSAD_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <exception>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/signature.h"
#include "cpu/bind.h"
#include "cpu/dispatch.h"
#include "greedy_coreset/cpu/bind.h"
#include "homography_align/cpu/bind.h"
#include "homography_warp/cpu/bind.h"
#include "prototype_distance/cpu/bind.h"

namespace vsad {
namespace {

#define VSAD_NAME(isa, ...) #isa,
// The sets that every kernel is compiled for, then those that only the int8 kernels are compiled for; slowest first.
constexpr const char* kNames[] = {VSAD_FOR_EACH_ISA(VSAD_NAME) VSAD_FOR_EACH_INT8(VSAD_NAME)};
constexpr const char* kComplete[] = {VSAD_FOR_EACH_ISA(VSAD_NAME)};
#undef VSAD_NAME
constexpr int kCount = int(std::size(kNames)), kCompleteCount = int(std::size(kComplete));

// Linux grants the tile registers of AMX to a process that asks for them, once.
bool has_amx() {
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
    // every processor with AVX2 has F16C too, which GCC 9 and 10 cannot ask for
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (name == "avx2") return avx2;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (name == "avx512") return avx512;
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    if (name == "avx512_vnni") return vnni;
    if (name == "amx") return vnni && has_amx();
#endif
    return name == "baseline";
}

int fastest() {
    int best = 0;
    for (int i = 0; i < kCount; ++i)
        if (runs_here(kNames[i])) best = i;
    return best;
}

// The position of the instruction set in use. It is determined when first needed, not when the module is imported:
// looking for AMX asks the system for it.
int& in_use() {
    static int position = fastest();
    return position;
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const char* name : kNames)
        if (runs_here(name)) names.emplace_back(name);
    return names;
}

void set_isa(const std::string& name) {
    for (int i = 0; i < kCount; ++i) {
        if (name != kNames[i]) continue;
        if (!runs_here(name)) throw std::invalid_argument("set_isa: this processor does not run " + name);
        in_use() = i;
        return;
    }
    throw std::invalid_argument("set_isa: name must be one this module was built for, got " + name);
}

unsigned long main_thread = 0;  // Python's name of it

// Signal handlers run in Python's main thread only; other threads need not wait for Python's lock to know that. Nothing
// here throws: the threads that work for the call would not survive it.
bool handle_signals() noexcept {
    if (PyThread_get_thread_ident() != main_thread) return false;
    const pybind11::gil_scoped_acquire lock;
    return PyErr_CheckSignals() != 0;
}

// The handler's exception is set already.
void translate(std::exception_ptr exception) {
    try {
        if (exception) std::rethrow_exception(exception);
    } catch (const Abandoned&) {
    }
}

}  // namespace

int isa_index() { return in_use() < kCompleteCount ? in_use() : kCompleteCount - 1; }

int int8_isa_index() { return in_use() < kCompleteCount ? -1 : in_use() - kCompleteCount; }

void refuse_dtype() { throw std::invalid_argument("no CPU kernel takes this dtype"); }

}  // namespace vsad

PYBIND11_MODULE(_cpu, m) {
    using namespace vsad;
    m.doc() = "Compiled CPU kernels of vsad; call them through vsad.ops.";
    m.def("isa", [] { return std::string(kNames[in_use()]); }, "The instruction set in use.");
    m.def("isas", &isas, "The instruction sets that this module holds and this processor runs, slowest first.");
    m.def("set_isa", &set_isa, pybind11::arg("name"), "Use this instruction set from now on; the tests compare them.");
    main_thread = pybind11::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
    interrupted = &handle_signals;
    pybind11::register_local_exception_translator(&translate);
    bind_signature(m);
    bind_greedy_coreset(m);
    bind_homography_align(m);
    bind_homography_warp(m);
    bind_prototype_distance(m);
}
