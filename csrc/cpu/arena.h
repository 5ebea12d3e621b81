// Scratch memory of a thread, and small functions that kernels use instead of the standard library's templates: the
// linker keeps one copy of such a template for all translation units, and it may be the one compiled for an instruction
// set that this machine lacks.
#pragma once
#include <cstdint>

#include "common/geometry.h"

namespace vsad {
namespace VSAD_ISA {

template <typename N>
VSAD_HD constexpr N lesser(N a, N b) {
    return a < b ? a : b;
}
template <typename N>
VSAD_HD constexpr N greater(N a, N b) {
    return a > b ? a : b;
}

template <typename T>
VSAD_HD void fill(T* to, std::int64_t count, T x) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = x;
}

namespace {

// Hands out parts of a thread's scratch, each on a cache line of its own. From null it only counts bytes.
class Arena {
  public:
    explicit Arena(char* memory) : memory_(memory) {}

    template <typename T>
    T* take(std::int64_t count) {
        char* taken = memory_ ? memory_ + used_ : nullptr;
        used_ += (count * std::int64_t(sizeof(T)) + 63) / 64 * 64;
        return reinterpret_cast<T*>(taken);
    }
    std::int64_t used() const { return used_; }

  private:
    char* memory_;
    std::int64_t used_ = 0;
};

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
