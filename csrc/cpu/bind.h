// What the bindings of the CPU kernels share.
#pragma once
#include "common/bind.h"
#include "cpu/isa.h"
