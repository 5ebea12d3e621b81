// csrc/cuda/ptx_align.h for the emulator.
#pragma once
#include "cuda/launch.h"
#include "scalar.h"

namespace vsad {
namespace cuda {

struct Registers {
    unsigned value[32][2];  // of all lanes
};
inline Registers of_all_lanes(unsigned first, unsigned second) {
    const std::uint64_t bits = first | static_cast<std::uint64_t>(second) << 32;
    const emulator::Meeting& meeting = emulator::meet_warp(0xffffffffu, bits, "mma");
    Registers all;
    for (int i = 0; i < 32; ++i) {
        all.value[i][0] = static_cast<unsigned>(meeting.out[i]);
        all.value[i][1] = static_cast<unsigned>(meeting.out[i] >> 32);
    }
    return all;
}

template <typename Half>
void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Half) {
    const Registers low = of_all_lanes(a[0], a[1]), high = of_all_lanes(a[2], a[3]), b = of_all_lanes(b0, b1);
    const auto half = [](unsigned bits, int i) { return widen(Half{static_cast<std::uint16_t>(bits >> 16 * i)}); };
    const int lane = emulator::lane();
    for (int n = 0; n < 4; ++n) {  // row lane / 4 + 8 (n / 2), column 2 (lane % 4) + n % 2
        const int row = lane / 4 * 4, column = (lane % 4 * 2 + n % 2) * 4;
        for (int quad = 0; quad < 4; ++quad)
            for (int i = 0; i < 2; ++i) {
                sum[n] += half(low.value[row + quad][n / 2], i) * half(b.value[column + quad][0], i);
                sum[n] += half(high.value[row + quad][n / 2], i) * half(b.value[column + quad][1], i);
            }
    }
}

inline unsigned lower_halves(unsigned a, unsigned b) { return (a & 0xffffu) | b << 16; }
inline unsigned upper_halves(unsigned a, unsigned b) { return a >> 16 | (b & 0xffff0000u); }

}  // namespace cuda
}  // namespace vsad
