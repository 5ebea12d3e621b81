// A register as quads: groups of four lanes, which processors shuffle cheaply. Each quad holds the values of one head.
#pragma once

#include "cpu/simd.h"

namespace vsad {
namespace VSAD_ISA {

template <typename T>
constexpr int kQuads = kLanes<T> / 4;

// Four elements, the unit of copies between a tensor and packed scratch memory.
template <typename T>
struct QuadOf {
    typedef T type __attribute__((vector_size(4 * sizeof(T))));
};
template <typename T>
using Quad = typename QuadOf<T>::type;

// Shuffles within quads: each index picks a lane of the same quad, 0 to 3 from a and 4 to 7 from b.
template <typename T, int... pick, int... i>
VSAD_HD Vector<T> pick_lanes(Vector<T> a, Vector<T> b, std::integer_sequence<int, i...>) {
    constexpr int of[4] = {pick...};
    return shuffle(a, b,
                   std::integer_sequence<int, (of[i % 4] < 4 ? i / 4 * 4 + of[i % 4]
                                                             : kLanes<T> + i / 4 * 4 + of[i % 4] - 4)...>{});
}
template <typename T, int... pick>
VSAD_HD Vector<T> in_quads(Vector<T> a, Vector<T> b) {
    return pick_lanes<T, pick...>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// Lane i of every quad is the sum across the lanes of that quad of the i-th argument.
template <typename T>
VSAD_HD Vector<T> sum_quads(Vector<T> a, Vector<T> b, Vector<T> c, Vector<T> d) {
    const Vector<T> ab = in_quads<T, 0, 2, 4, 6>(a, b) + in_quads<T, 1, 3, 5, 7>(a, b);
    const Vector<T> cd = in_quads<T, 0, 2, 4, 6>(c, d) + in_quads<T, 1, 3, 5, 7>(c, d);
    return in_quads<T, 0, 2, 4, 6>(ab, cd) + in_quads<T, 1, 3, 5, 7>(ab, cd);
}

// All-reduce across the four lanes of each quad.
template <typename T>
VSAD_HD Vector<T> sum_in_quads(Vector<T> v) {
    v += in_quads<T, 1, 0, 3, 2>(v, v);
    return v + in_quads<T, 2, 3, 0, 1>(v, v);
}
template <typename T>
VSAD_HD Vector<T> greatest_in_quads(Vector<T> v) {
    const Vector<T> neighbor = in_quads<T, 1, 0, 3, 2>(v, v);
    v = v > neighbor ? v : neighbor;
    const Vector<T> other = in_quads<T, 2, 3, 0, 1>(v, v);
    return v > other ? v : other;
}

// All-reduce sum across groups of `span` consecutive quads.
template <typename T>
VSAD_HD Vector<T> sum_over_span(Vector<T> v, int span) {
    constexpr auto all = std::make_integer_sequence<int, kLanes<T>>{};
    if constexpr (kQuads<T> >= 2)
        if (span >= 2) v += swap_lanes<T, 4>(v, all);
    if constexpr (kQuads<T> >= 4)
        if (span >= 4) v += swap_lanes<T, 8>(v, all);
    return v;
}

template <typename T, int lane>
VSAD_HD Vector<T> spread_lane(Vector<T> v) {
    return in_quads<T, lane, lane, lane, lane>(v, v);
}

}  // namespace VSAD_ISA
}  // namespace vsad
