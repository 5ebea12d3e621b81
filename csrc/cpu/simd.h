// Vectors of the widest register that this translation unit is compiled for, on the compiler's own vector
// types.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#include "cpu/scalar.h"

namespace vsad {
namespace VSAD_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(kVectorBytes)));
    typedef std::uint32_t integer __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(kVectorBytes)));
    typedef std::uint64_t integer __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <typename T>
constexpr int round_up(int n) {
    return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <typename T>
VSAD_HD Vector<T> load(const T* from) {
    Vector<T> v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}
template <typename T>
VSAD_HD void store(T* to, Vector<T> v) {
    __builtin_memcpy(to, &v, sizeof v);
}
template <typename T>
VSAD_HD Vector<T> broadcast(T x) {
    return x - Vector<T>{};
}

template <typename V, int... lanes>
VSAD_HD V shuffle(V a, V b, std::integer_sequence<int, lanes...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, lanes...);
#else
    using Lane = std::conditional_t<sizeof(a[0]) == 4, std::int32_t, std::int64_t>;
    typedef Lane Mask __attribute__((vector_size(sizeof(V))));
    return __builtin_shuffle(a, b, Mask{lanes...});
#endif
}

// The 16-byte blocks of a register are its cheap unit of shuffling: pairs are taken within blocks first, then
// blocks.
template <typename T, int odd, int... i>
VSAD_HD Vector<T> every_other_lane(Vector<T> a, Vector<T> b, std::integer_sequence<int, i...>) {
    constexpr int n = 16 / int(sizeof(T));
    return shuffle(
        a, b,
        std::integer_sequence<int, (2 * (i % n) + odd < n ? i / n * n + 2 * (i % n) + odd
                                                          : kLanes<T> + i / n * n + 2 * (i % n) + odd - n)...>{});
}
template <typename T, int odd, int... i>
VSAD_HD Vector<T> every_other_block(Vector<T> a, Vector<T> b, std::integer_sequence<int, i...>) {
    constexpr int n = 16 / int(sizeof(T));
    return shuffle(a, b, std::integer_sequence<int, ((2 * (i / n) + odd) * n + i % n)...>{});
}

// Vectors of element type T from elements that convert to it.
template <typename T, typename Element>
VSAD_HD Vector<T> load_wide(const Element* from) {
    if constexpr (sizeof(Element) == sizeof(T)) {
        return load(from);
    } else {
        T wide[kLanes<T>];
        for (int i = 0; i < kLanes<T>; ++i) wide[i] = widen(from[i]);
        return load(wide);
    }
}

template <typename T, int d, int... i>
VSAD_HD void swap_blocks(Vector<T>& a, Vector<T>& b, std::integer_sequence<int, i...>) {
    const Vector<T> old = a;
    a = shuffle(old, b, std::integer_sequence<int, (i & d ? kLanes<T> + i - d : i)...>{});
    b = shuffle(old, b, std::integer_sequence<int, (i & d ? kLanes<T> + i : i + d)...>{});
}

// Transposes the square matrix that kLanes vectors make.
template <typename T, int d = kLanes<T> / 2>
VSAD_HD void transpose(Vector<T> (&rows)[kLanes<T>]) {
    if constexpr (d > 0) {
        for (int i = 0; i < kLanes<T>; ++i)
            if (!(i & d)) swap_blocks<T, d>(rows[i], rows[i + d], std::make_integer_sequence<int, kLanes<T>>{});
        transpose<T, d / 2>(rows);
    }
}

// Lane i of the result is the sum over the lanes of rows[i]; each step halves the rows. Recursive, so that
// they stay in registers.
template <typename T, int count = kLanes<T>>
VSAD_HD Vector<T> sum_rows(const Vector<T> (&rows)[count]) {
    if constexpr (count == 1) {
        return rows[0];
    } else {
        constexpr auto all = std::make_integer_sequence<int, kLanes<T>>{};
        constexpr int blocks = kVectorBytes / 16;
        Vector<T> halved[count / 2];
        for (int i = 0; i < count / 2; ++i) {
            const Vector<T> a = rows[2 * i], b = rows[2 * i + 1];
            if constexpr (count > blocks)
                halved[i] = every_other_lane<T, 0>(a, b, all) + every_other_lane<T, 1>(a, b, all);
            else
                halved[i] = every_other_block<T, 0>(a, b, all) + every_other_block<T, 1>(a, b, all);
        }
        return sum_rows<T, count / 2>(halved);
    }
}

template <typename T, int distance, int... i>
VSAD_HD Vector<T> swap_lanes(Vector<T> v, std::integer_sequence<int, i...>) {
    return shuffle(v, v, std::integer_sequence<int, (i ^ distance)...>{});
}
template <typename T, int distance = kLanes<T> / 2>
VSAD_HD T sum_lanes(Vector<T> v) {
    if constexpr (distance > 0)
        return sum_lanes<T, distance / 2>(v + swap_lanes<T, distance>(v, std::make_integer_sequence<int, kLanes<T>>{}));
    else
        return v[0];
}
template <typename T, int distance = kLanes<T> / 2>
VSAD_HD T max_lanes(Vector<T> v) {
    if constexpr (distance > 0) {
        const Vector<T> other = swap_lanes<T, distance>(v, std::make_integer_sequence<int, kLanes<T>>{});
        return max_lanes<T, distance / 2>(v > other ? v : other);
    } else {
        return v[0];
    }
}

// e^x for x <= 0 to about one unit in the last place; 0 below -87, where a float would become subnormal.
VSAD_HD Vector<float> exp_of_nonpositive(Vector<float> x) {
    const float magic = 0x1.8p23f;  // adding it leaves the rounded quotient in the low bits
    const Vector<float> shifted = x * 1.44269504f + magic, n = shifted - magic;
    const Vector<float> r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vector<float> p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    using Bits = VectorOf<float>::integer;
    const Bits power = (Bits(shifted) << 23) + 0x3f800000u;
    return x < -87.0f ? Vector<float>{} : p * Vector<float>(power);
}
VSAD_HD Vector<double> exp_of_nonpositive(Vector<double> x) {
    for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
    return x;
}

}  // namespace VSAD_ISA
}  // namespace vsad
