// The instruction sets a kernel is compiled for. Each lives in a namespace of its own, so that the linker can
// never take a function compiled for one machine as the definition of another's.
#pragma once

#ifdef VSAD_X86
#define VSAD_FOR_EACH_ISA(DO) DO(baseline) DO(avx2) DO(avx512)
#else
#define VSAD_FOR_EACH_ISA(DO) DO(baseline)
#endif
