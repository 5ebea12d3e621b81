// vsad._cuda: raw pointers, shapes, strides and a stream in, nothing out. Python owns checks and allocation.
#include "cuda/bind.h"

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "Compiled CUDA kernels of vsad; call them through vsad.ops.";
#if defined(VSAD_EMULATE)
    m.attr("EMULATED") = true;
#else
    m.attr("EMULATED") = false;
#endif
    m.attr("ARCHITECTURES") = VSAD_ARCHITECTURES;
    vsad::Bindings::bind_all(m);
}
