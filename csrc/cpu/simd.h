// Vectors as wide as the registers that this translation unit is compiled for, on the compiler's own vector types.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "common/scalar.h"

namespace vsad {
namespace VSAD_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#if defined(__clang__)
#define VSAD_UNROLL(n) _Pragma("clang loop unroll(full)")
#else
#define VSAD_PRAGMA(text) _Pragma(#text)
#define VSAD_UNROLL(n) VSAD_PRAGMA(GCC unroll n)
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
    static constexpr int bytes =
        kVectorBytes < 32 ? 32 : kVectorBytes;  // at least four lanes (see quads.h); the compiler splits them
    typedef double type __attribute__((vector_size(bytes)));
    typedef std::uint64_t integer __attribute__((vector_size(bytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int kLanes = int(sizeof(Vector<T>) / sizeof(T));

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

template <typename T>
VSAD_HD Vector<T> lane_numbers() {
    Vector<T> v = {};
    for (int i = 0; i < kLanes<T>; ++i) v[i] = T(i);
    return v;
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

// Shuffles within the 16-byte blocks of a register are cheap, and so are shuffles of whole blocks.
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

// Loads elements and converts them to a vector of T.
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

// Transposes a square matrix of kLanes vectors.
template <typename T, int d = kLanes<T> / 2>
VSAD_HD void transpose(Vector<T> (&rows)[kLanes<T>]) {
    if constexpr (d > 0) {
        for (int i = 0; i < kLanes<T>; ++i)
            if (!(i & d)) swap_blocks<T, d>(rows[i], rows[i + d], std::make_integer_sequence<int, kLanes<T>>{});
        transpose<T, d / 2>(rows);
    }
}

// Lane i of the result is the sum across the lanes of rows[i]; each step halves the rows. It is recursive, so that the
// rows stay in registers.
template <typename T, int count = kLanes<T>>
VSAD_HD Vector<T> sum_rows(const Vector<T> (&rows)[count]) {
    if constexpr (count == 1) {
        return rows[0];
    } else {
        constexpr auto all = std::make_integer_sequence<int, kLanes<T>>{};
        constexpr int blocks = int(sizeof(Vector<T>)) / 16;
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

// x = e^x for n vectors of x <= 0, interleaved step by step to hide the latency of each. Relative to 1, the greatest
// weight of a softmax, the error is about one unit in the last place: one product reduces the argument, and its error
// grows only as fast as e^x falls. The result is 0 below -87, where a float would become subnormal.
template <int n>
VSAD_HD void exp_of_nonpositive(Vector<float> (&x)[n]) {
    constexpr float magic = 0x1.8p23f;  // adding it leaves the rounded quotient in the low bits
    // minimax polynomial of e^r for |r| <= log(2) / 2, by its relative error
    constexpr float series[] = {8.372998796e-3f, 4.166768864e-2f, 1.666647792e-1f, 4.999999404e-1f, 1.0f, 1.0f};
    Vector<float> shifted[n], r[n], p[n];
    for (int i = 0; i < n; ++i) {
        shifted[i] = x[i] * 1.44269504f + magic;
        r[i] = x[i] - (shifted[i] - magic) * 0.693147181f;
        p[i] = broadcast(1.387582277e-3f);
    }
    VSAD_UNROLL(6)
    for (const float c : series)
        for (int i = 0; i < n; ++i) p[i] = p[i] * r[i] + c;
    for (int i = 0; i < n; ++i) {
#if defined(__AVX512F__)  // NaN is not less than -87; masked-off lanes are not computed, so nothing is subnormal
        const __mmask16 normal = _mm512_cmp_ps_mask(__m512(x[i]), _mm512_set1_ps(-87), _CMP_NLT_UQ);
        x[i] = Vector<float>(_mm512_maskz_scalef_ps(normal, __m512(p[i]), __m512(shifted[i] - magic)));
#else
        using Bits = VectorOf<float>::integer;
        const Bits power = (Bits(shifted[i]) << 23) + 0x3f800000u;
        x[i] = x[i] < -87.0f ? Vector<float>{} : p[i] * Vector<float>(power);
#endif
    }
}
template <int n>
VSAD_HD void exp_of_nonpositive(Vector<double> (&x)[n]) {
    for (Vector<double>& v : x)
        for (int i = 0; i < kLanes<double>; ++i) v[i] = __builtin_exp(v[i]);
}
template <typename V>
VSAD_HD V exp_of_nonpositive(V x) {
    V only[1] = {x};
    exp_of_nonpositive(only);
    return only[0];
}

// log(x) for normal x > 0, to about one unit in the last place; infinity and NaN are returned unchanged.
VSAD_HD Vector<float> log_of_positive(Vector<float> x) {
    using Bits = VectorOf<float>::integer;
    typedef std::int32_t Signed __attribute__((vector_size(sizeof(Bits))));
    // x = 2^n m with m in [sqrt(1/2), sqrt(2)): log x = n log 2 + log m, and f = m - 1 is exact
    const Signed shifted = Signed(Bits(x) - 0x3f3504f3u);
    const Vector<float> n = __builtin_convertvector(shifted >> 23, Vector<float>);
    const Vector<float> f = Vector<float>(Bits(shifted & 0x7fffff) + 0x3f3504f3u) - 1.0f, z = f * f;
    constexpr float series[] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                                -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
    Vector<float> p = broadcast(7.0376836292e-2f);
    VSAD_UNROLL(8)
    for (const float c : series) p = p * f + c;
    const Vector<float> log = f + (p * f * z + (n * -2.12194440e-4f - 0.5f * z)) + n * 0.693359375f;
    return x <= 0x1.fffffep127f ? log : x;
}
VSAD_HD Vector<double> log_of_positive(Vector<double> x) {
    for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_log(x[i]);
    return x;
}

}  // namespace VSAD_ISA
}  // namespace vsad
