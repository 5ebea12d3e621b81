// The instruction sets a kernel is compiled for. Each lives in a namespace of its own, so that the linker can
// never take a function compiled for one machine as the definition of another's.
#pragma once

// DO(isa, ...) for each, slowest first.
#ifdef VSAD_X86
#define VSAD_FOR_EACH_ISA(DO, ...) DO(baseline, __VA_ARGS__) DO(avx2, __VA_ARGS__) DO(avx512, __VA_ARGS__)
#else
#define VSAD_FOR_EACH_ISA(DO, ...) DO(baseline, __VA_ARGS__)
#endif

// The sets that prototype_distance alone has kernels for; every other operator runs its avx512 code under their
// names. setup.py defines VSAD_AMX where the compiler knows it.
#ifdef VSAD_INT8
#ifdef VSAD_AMX
#define VSAD_FOR_EACH_INT8(DO, ...) DO(avx512_vnni, __VA_ARGS__) DO(amx, __VA_ARGS__)
#else
#define VSAD_FOR_EACH_INT8(DO, ...) DO(avx512_vnni, __VA_ARGS__)
#endif
#else
#define VSAD_FOR_EACH_INT8(DO, ...)
#endif

// A function of every instruction set, as it is compiled for the one in use.
#define VSAD_ADDRESS(isa, function) &isa::function,
#define VSAD_CHOOSE(function)                                                                         \
    ([] {                                                                                             \
        constexpr decltype(&baseline::function) rows[] = {VSAD_FOR_EACH_ISA(VSAD_ADDRESS, function)}; \
        return rows[isa_index()];                                                                     \
    }())

namespace vsad {

struct Int8Kernels;

int isa_index();                    // the place of the one in use among VSAD_FOR_EACH_ISA
const Int8Kernels* int8_kernels();  // of the one in use among VSAD_FOR_EACH_INT8; null if that is none

}  // namespace vsad
