// CUDA's device functions, for the threads of the emulator.
#pragma once
#include <limits>
#include <type_traits>
#include <utility>

#include "cuda/emulator.h"

constexpr int warpSize = 32;

inline void __syncthreads() {
    auto& block = *vsad::emulator::self().block;
    vsad::emulator::meet(block.barrier, block.alive, "__syncthreads");
}
inline int __syncthreads_count(int predicate) {
    auto& block = *vsad::emulator::self().block;
    return vsad::emulator::meet(block.barrier, block.alive, "__syncthreads_count", predicate != 0);
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu) { vsad::emulator::meet_warp(mask, 0, "__syncwarp"); }
inline unsigned __activemask() { return 1u << vsad::emulator::lane(); }
inline void __nanosleep(unsigned) {
    bool asked = false;
    vsad::emulator::wait("__nanosleep", [asked]() mutable { return std::exchange(asked, true); });
}

template <typename T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
    using namespace vsad::emulator;
    const Meeting& m = meet_warp(mask, to_bits(v), "__shfl_sync");
    const int from = (lane() & ~(width - 1)) + (source & (width - 1));
    return from_bits<T>(m.out[from]);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32) {
    using namespace vsad::emulator;
    const Meeting& m = meet_warp(mask, to_bits(v), "__shfl_xor_sync");
    const int from = lane() ^ with;
    return from_bits<T>(m.out[from / width > lane() / width ? lane() : from]);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
    using namespace vsad::emulator;
    const Meeting& m = meet_warp(mask, to_bits(v), "__shfl_up_sync");
    const int from = lane() - static_cast<int>(by);
    return from_bits<T>(m.out[from < (lane() & ~(width - 1)) ? lane() : from]);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
    using namespace vsad::emulator;
    const Meeting& m = meet_warp(mask, to_bits(v), "__shfl_down_sync");
    const int from = lane() + static_cast<int>(by);
    return from_bits<T>(m.out[from > (lane() | (width - 1)) ? lane() : from]);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const auto& m = vsad::emulator::meet_warp(mask, predicate != 0, "__ballot_sync");
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1 && m.out[i]) bits |= 1u << i;
    return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <typename T>
unsigned __match_any_sync(unsigned mask, T v) {
    const auto& m = vsad::emulator::meet_warp(mask, vsad::emulator::to_bits(v), "__match_any_sync");
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1 && m.out[i] == vsad::emulator::to_bits(v)) bits |= 1u << i;
    return bits;
}
namespace vsad {
namespace emulator {
template <typename T, typename F>
T reduce(unsigned mask, T v, F f) {
    const Meeting& m = meet_warp(mask, to_bits(v), "__reduce_sync");
    T total = v;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1 && i != lane()) total = f(total, from_bits<T>(m.out[i]));
    return total;
}
}  // namespace emulator
}  // namespace vsad
template <typename T>
T __reduce_add_sync(unsigned mask, T v) {
    return vsad::emulator::reduce(mask, v, [](T a, T b) { return a + b; });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T v) {
    return vsad::emulator::reduce(mask, v, [](T a, T b) { return a < b ? a : b; });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T v) {
    return vsad::emulator::reduce(mask, v, [](T a, T b) { return a > b ? a : b; });
}
template <typename T>
T __reduce_or_sync(unsigned mask, T v) {
    return vsad::emulator::reduce(mask, v, [](T a, T b) { return a | b; });
}
template <typename T>
T __reduce_and_sync(unsigned mask, T v) {
    return vsad::emulator::reduce(mask, v, [](T a, T b) { return a & b; });
}

// Atomics are plain operations, because nothing interrupts a fiber.
namespace vsad {
namespace emulator {
template <typename T, typename F>
T replace(T* at, F f) {
    const T old = *at;
    *at = f(old);
    return old;
}
}  // namespace emulator
}  // namespace vsad
template <typename T>
T atomicAdd(T* to, std::common_type_t<T> v) {
    return vsad::emulator::replace(to, [v](T old) { return static_cast<T>(old + v); });
}
template <typename T>
T atomicMin(T* to, std::common_type_t<T> v) {
    return vsad::emulator::replace(to, [v](T old) { return static_cast<T>(std::min(old, v)); });
}
template <typename T>
T atomicMax(T* to, std::common_type_t<T> v) {
    return vsad::emulator::replace(to, [v](T old) { return static_cast<T>(std::max(old, v)); });
}
template <typename T>
T atomicExch(T* to, std::common_type_t<T> v) {
    return vsad::emulator::replace(to, [v](T) { return static_cast<T>(v); });
}
template <typename T>
T atomicOr(T* to, std::common_type_t<T> v) {
    return vsad::emulator::replace(to, [v](T old) { return static_cast<T>(old | v); });
}
template <typename T>
T atomicAnd(T* to, std::common_type_t<T> v) {
    return vsad::emulator::replace(to, [v](T old) { return static_cast<T>(old & v); });
}
template <typename T>
T atomicCAS(T* to, T expected, T v) {
    const T old = *to;
    if (old == expected) *to = v;
    return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* from) {
    return *from;
}
template <typename T>
T __ldcg(const T* from) {
    return *from;
}
template <typename T>
T __ldcs(const T* from) {
    return *from;
}
template <typename T>
void __stcg(T* to, T v) {
    *to = v;
}
template <typename T>
void __stcs(T* to, T v) {
    *to = v;
}

// Arithmetic; `volatile` keeps the compiler from fusing a product with a sum.
inline float __fmul_rn(float a, float b) {
    volatile float product = a * b;
    return product;
}
inline double __dmul_rn(double a, double b) {
    volatile double product = a * b;
    return product;
}
inline float __fadd_rn(float a, float b) {
    volatile float sum = a + b;
    return sum;
}
inline double __dadd_rn(double a, double b) {
    volatile double sum = a + b;
    return sum;
}
inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float rsqrtf(float a) { return 1 / std::sqrt(a); }
inline float __saturatef(float a) { return a > 0 ? std::min(a, 1.0f) : 0.0f; }
inline long long __double2ll_rn(double a) {
    return a == a && std::fabs(a) < 0x1p63 ? std::llrint(a) : std::numeric_limits<long long>::min();
}
inline int __float2int_rn(float a) { return a == a && std::fabs(a) < 0x1p31f ? int(std::lrint(a)) : 0; }
inline int __float2int_rd(float a) { return static_cast<int>(std::floor(a)); }
inline int __float_as_int(float a) { return vsad::emulator::from_bits<int>(vsad::emulator::to_bits(a)); }
inline unsigned __float_as_uint(float a) { return vsad::emulator::from_bits<unsigned>(vsad::emulator::to_bits(a)); }
inline float __int_as_float(int a) { return vsad::emulator::from_bits<float>(vsad::emulator::to_bits(a)); }
inline float __uint_as_float(unsigned a) { return vsad::emulator::from_bits<float>(vsad::emulator::to_bits(a)); }
inline long long __double_as_longlong(double a) {
    return vsad::emulator::from_bits<long long>(vsad::emulator::to_bits(a));
}
inline double __longlong_as_double(long long a) {
    return vsad::emulator::from_bits<double>(vsad::emulator::to_bits(a));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __clz(int a) { return a ? __builtin_clz(static_cast<unsigned>(a)) : 32; }
inline unsigned __brev(unsigned a) {
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) r |= (a >> i & 1) << (31 - i);
    return r;
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += static_cast<signed char>(a >> 8 * i) * static_cast<signed char>(b >> 8 * i);
    return c;
}

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
    return a < b ? a : b;
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
    return a > b ? a : b;
}
