// Replaces csrc/cuda/ptx_mma.h in the emulator.
#pragma once
#include "common/scalar.h"
#include "cuda/launch.h"

namespace vsad {
namespace cuda {

inline void cp_async(void* shared, const void* global, bool exists = true) {
    if ((reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global)) % 16)
        throw std::logic_error("cp_async: not aligned");
    const auto copy = [=] { exists ? std::memcpy(shared, global, 16) : std::memset(shared, 0, 16); };
    if (emulator::at_once())
        copy();
    else
        emulator::self().begun.push_back(copy);
}
inline void cp_async_commit() {
    emulator::Thread& me = emulator::self();
    me.groups.push_back(std::move(me.begun));
    me.begun.clear();
}
template <int n>
void cp_async_wait() {
    auto& groups = emulator::self().groups;
    for (; groups.size() > n; groups.pop_front())
        for (auto& copy : groups.front()) copy();
}

inline void ldmatrix(unsigned (&to)[4], const void* shared) {
    if (reinterpret_cast<std::uintptr_t>(shared) % 16) throw std::logic_error("ldmatrix: not aligned");
    const auto rows = emulator::exchange(static_cast<const unsigned char*>(shared), "ldmatrix");
    const int lane = emulator::lane();
    for (int i = 0; i < 4; ++i) std::memcpy(&to[i], rows[i * 8 + lane / 4] + lane % 4 * 4, 4);
}
inline void ldmatrix_transposed(unsigned (&to)[4], const void* shared) {
    if (reinterpret_cast<std::uintptr_t>(shared) % 16) throw std::logic_error("ldmatrix: not aligned");
    const auto rows = emulator::exchange(static_cast<const unsigned char*>(shared), "ldmatrix");
    const int lane = emulator::lane();
    for (int i = 0; i < 4; ++i)
        for (int element = 0; element < 2; ++element)
            std::memcpy(reinterpret_cast<unsigned char*>(&to[i]) + 2 * element,
                        rows[i * 8 + 2 * (lane % 4) + element] + lane / 4 * 2, 2);
}

struct Fragments {
    unsigned a[4], b[2];
};

// Element i of a 32-bit register.
template <typename Element>
float element(unsigned bits, int i, Element) {
    return widen(Element{static_cast<std::uint16_t>(bits >> 16 * i)});
}
inline int element(unsigned bits, int i, std::int8_t) { return static_cast<signed char>(bits >> 8 * i); }

template <typename T, typename Element>
void mma(T (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Element e) {
    const auto lanes = emulator::exchange(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, "mma");
    const int lane = emulator::lane();
    for (int n = 0; n < 4; ++n) {  // row lane / 4 + 8 (n / 2), column 2 (lane % 4) + n % 2
        T total = 0;
        for (int half = 0; half < 2; ++half)
            for (int quad = 0; quad < 4; ++quad)
                for (int i = 0; i < int(4 / sizeof(Element)); ++i)
                    total += element(lanes[lane / 4 * 4 + quad].a[n / 2 + half * 2], i, e) *
                             element(lanes[(lane % 4 * 2 + n % 2) * 4 + quad].b[half], i, e);
        sum[n] += total;
    }
}

}  // namespace cuda
}  // namespace vsad
