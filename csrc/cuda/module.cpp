// vsad._cuda: raw pointers, shapes, strides and a stream in, nothing out. Python owns checks and allocation.
#include "common/signature.h"
#include "cuda/bind.h"
#include "greedy_coreset/cuda/bind.h"
#include "homography_align/cuda/bind.h"
#include "homography_warp/cuda/bind.h"
#include "prototype_distance/cuda/bind.h"

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "Compiled CUDA kernels of vsad; call them through vsad.ops.";
#if defined(VSAD_EMULATE)
    m.attr("EMULATED") = true;
#else
    m.attr("EMULATED") = false;
#endif
    m.attr("ARCHITECTURES") = VSAD_ARCHITECTURES;
    vsad::bind_signature(m);
    vsad::cuda::bind_transpose(m);
    vsad::cuda::bind_greedy_coreset(m);
    vsad::cuda::bind_homography_align(m);
    vsad::cuda::bind_homography_warp(m);
    vsad::cuda::prototype_distance::bind_prototype_distance(m);
}
