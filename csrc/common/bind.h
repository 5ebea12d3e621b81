// What the bindings of vsad._cpu and of vsad._cuda share. `csrc/cpu/module.cpp` includes every `csrc/<op>/cpu/bind.h`,
// and `csrc/cuda/module.cpp` every `csrc/<op>/cuda/bind.h`: pybind11 takes longer to read than all of them to compile.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

namespace vsad {

namespace py = pybind11;

using Pointer = std::uintptr_t;

template <typename T>
T* at(Pointer address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace vsad
