// What the bindings of the CPU kernels share.
#pragma once
#include "common/bind.h"
#include "cpu/call.h"
#include "cpu/isa.h"

namespace vsad {

// Releases Python's lock while kernels run, and lets Ctrl-C abandon them.
class LongCall {
    Call call_;
    pybind11::gil_scoped_release release_;
};

}  // namespace vsad
