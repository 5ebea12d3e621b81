// The instruction sets that kernels are compiled for. Each has a namespace of its own, so that the linker can never
// replace a function by one that was compiled for another instruction set.
#pragma once

// Expands to DO(isa, ...) for each instruction set, slowest first. setup.py defines VSAD_X86, and a name for each set
// beyond AVX2 that it compiles.
#if defined(VSAD_AVX512)
#define VSAD_FOR_EACH_ISA(DO, ...) DO(baseline, __VA_ARGS__) DO(avx2, __VA_ARGS__) DO(avx512, __VA_ARGS__)
#elif defined(VSAD_X86)
#define VSAD_FOR_EACH_ISA(DO, ...) DO(baseline, __VA_ARGS__) DO(avx2, __VA_ARGS__)
#else
#define VSAD_FOR_EACH_ISA(DO, ...) DO(baseline, __VA_ARGS__)
#endif

// The instruction sets that only the int8 kernels of prototype_distance are compiled for; while one of them is in use,
// all other kernels run their avx512 code.
#if defined(VSAD_AMX)
#define VSAD_FOR_EACH_INT8(DO, ...) DO(avx512_vnni, __VA_ARGS__) DO(amx, __VA_ARGS__)
#elif defined(VSAD_AVX512_VNNI)
#define VSAD_FOR_EACH_INT8(DO, ...) DO(avx512_vnni, __VA_ARGS__)
#else
#define VSAD_FOR_EACH_INT8(DO, ...)
#endif

// The variant of a function that was compiled for the instruction set in use.
#define VSAD_ADDRESS(isa, function) &isa::function,
#define VSAD_CHOOSE(function)                                                                         \
    ([] {                                                                                             \
        constexpr decltype(&baseline::function) rows[] = {VSAD_FOR_EACH_ISA(VSAD_ADDRESS, function)}; \
        return rows[isa_index()];                                                                     \
    }())

namespace vsad {

// The position in VSAD_FOR_EACH_ISA of the instruction set in use.
int isa_index();
// The position in VSAD_FOR_EACH_INT8 of the instruction set in use; -1 if it is not among them.
int int8_isa_index();

}  // namespace vsad
