// csrc/cuda/ptx_mma.h for the emulator.
#pragma once
#include "cuda/launch.h"

namespace vsad {
namespace cuda {

inline void cp_async(void* shared, const void* global) {
    if ((reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global)) % 16)
        throw std::logic_error("cp_async: not aligned");
    if (emulator::at_once())
        std::memcpy(shared, global, 16);
    else
        emulator::self().begun.push_back([=] { std::memcpy(shared, global, 16); });
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
    const auto rows = emulator::exchange(static_cast<const unsigned char*>(shared), "ldmatrix");
    const int lane = emulator::lane();
    for (int i = 0; i < 4; ++i) std::memcpy(&to[i], rows[i * 8 + lane / 4] + lane % 4 * 4, 4);
}

struct Fragments {
    unsigned a[4], b[2];

    // Element `i` of the four bytes in a register.
    static float get(unsigned bits, int i, float) { return __uint_as_float(i ? bits & 0xffff0000u : bits << 16); }
    static int get(unsigned bits, int i, int) { return static_cast<signed char>(bits >> 8 * i); }
};

template <typename T>
void emulate_mma(T (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const auto lanes = emulator::exchange(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, "mma");
    const int lane = emulator::lane(), count = sizeof(T) == 4 && std::is_same<T, float>::value ? 2 : 4;
    for (int n = 0; n < 4; ++n) {  // row lane / 4 + 8 (n / 2), column 2 (lane % 4) + n % 2
        T total = 0;
        for (int half = 0; half < 2; ++half)
            for (int quad = 0; quad < 4; ++quad)
                for (int i = 0; i < count; ++i)
                    total += Fragments::get(lanes[lane / 4 * 4 + quad].a[n / 2 + half * 2], i, T()) *
                             Fragments::get(lanes[(lane % 4 * 2 + n % 2) * 4 + quad].b[half], i, T());
        sum[n] += total;
    }
}
inline void mma(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { emulate_mma(sum, a, b0, b1); }
inline void mma(int (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { emulate_mma(sum, a, b0, b1); }

}  // namespace cuda
}  // namespace vsad
