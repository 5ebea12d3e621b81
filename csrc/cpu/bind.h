// What the bindings of the operators share. bind_<op>.cpp binds one operator; module.cpp calls them all.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "cpu/isa.h"

namespace vsad {

using Pointer = std::uintptr_t;

template <typename T>
T* at(Pointer address) {
    return reinterpret_cast<T*>(address);
}

void bind_greedy_coreset(pybind11::module_& m);
void bind_homography_align(pybind11::module_& m);
void bind_homography_warp(pybind11::module_& m);
void bind_prototype_distance(pybind11::module_& m);

}  // namespace vsad
