// What the bindings of the operators share. bind_<op>.cpp binds one operator; module.cpp calls them all.
#pragma once
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

namespace vsad {
namespace cuda {

using Pointer = std::uintptr_t;

template <typename T>
T* at(Pointer address) {
    return reinterpret_cast<T*>(address);
}

inline cudaStream_t stream_at(Pointer stream) { return reinterpret_cast<cudaStream_t>(stream); }

void bind_greedy_coreset(pybind11::module_& m);
void bind_homography_align(pybind11::module_& m);
void bind_homography_warp(pybind11::module_& m);
void bind_prototype_distance(pybind11::module_& m);

}  // namespace cuda
}  // namespace vsad
