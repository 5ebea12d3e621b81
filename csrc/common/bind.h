// What the bindings of vsad._cpu and of vsad._cuda share. `csrc/cpu/module.cpp` includes every `csrc/<op>/cpu/bind.h`,
// and `csrc/cuda/module.cpp` every `csrc/<op>/cuda/bind.h`: pybind11 takes longer to read than all of them to compile.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "common/dlpack.h"

namespace vsad {

namespace py = pybind11;

using Pointer = std::uintptr_t;

template <typename T>
T* at(Pointer address) {
    return reinterpret_cast<T*>(address);
}

// Where a tensor lies; null for None.
inline char* place_of(py::handle tensor) {
    if (tensor.is_none()) return nullptr;
    dlpack::Tensor t;
    if (!dlpack::exchange) return at<char>(tensor.attr("data_ptr")().cast<Pointer>());
    if (dlpack::exchange->from_python(tensor.ptr(), &t) != 0) throw py::error_already_set();
    return static_cast<char*>(t.data) + t.byte_offset;
}

}  // namespace vsad
