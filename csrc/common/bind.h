// What the bindings of vsad._cpu and of vsad._cuda share. Each `csrc/<op>/cpu/bind.cpp` and `csrc/<op>/cuda/bind.cpp`
// constructs one Bindings; `bind_all` adds them to the module that they are linked into.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

namespace vsad {

using Pointer = std::uintptr_t;

template <typename T>
T* at(Pointer address) {
    return reinterpret_cast<T*>(address);
}

// The bindings of one operator, linked into a list before the module is imported.
class Bindings {
  public:
    using Bind = void (*)(pybind11::module_& m);

    explicit Bindings(Bind bind) : bind_(bind), next_(first()) { first() = this; }
    Bindings(const Bindings&) = delete;
    Bindings& operator=(const Bindings&) = delete;

    static void bind_all(pybind11::module_& m) {
        for (const Bindings* each = first(); each; each = each->next_) each->bind_(m);
    }

  private:
    // Inside a function, so that it exists before the first constructor runs, whichever source file that is in.
    static const Bindings*& first() {
        static const Bindings* list = nullptr;
        return list;
    }

    Bind bind_;
    const Bindings* next_;
};

}  // namespace vsad
