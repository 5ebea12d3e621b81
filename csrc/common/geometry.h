// Projection, windows and bilinear interpolation: the mathematics of homography_align, for host and device.
//
// Pixel coordinates are (x, y), y down, the center of pixel (i, j) is x=j, y=i. A homography maps target
// pixels to source pixels. The cells of an R x R window are one pixel apart, so they share the fractions of
// the projected point and touch only (R+1)^2 integer taps: cell (a, b) lies between the taps (a, b), (a, b+1),
// (a+1, b) and (a+1, b+1).
#pragma once

#if defined(__CUDACC__)
#define VSAD_HD __host__ __device__ __forceinline__
#else
#define VSAD_HD inline __attribute__((always_inline))
#endif

// Every translation unit names its own copy: a function compiled for one instruction set must not serve
// another.
#ifndef VSAD_ISA
#define VSAD_ISA portable
#endif

namespace vsad {
namespace VSAD_ISA {

VSAD_HD float round_down(float x) { return __builtin_floorf(x); }
VSAD_HD double round_down(double x) { return __builtin_floor(x); }

// Returns v, a number or a vector, and keeps the compiler from fusing the multiplication that made it with an addition
// that follows.
template <typename V>
VSAD_HD V rounded(V v) {
#if defined(__x86_64__) && !defined(__FMA__)
    return v;  // there is no such instruction
#endif
#if defined(__AVX512F__)
    constexpr int register_bytes = 64;
#elif defined(__AVX__)
    constexpr int register_bytes = 32;
#else
    constexpr int register_bytes = 16;
#endif
    if constexpr (sizeof(V) > register_bytes) {
        __asm__("" : "+m"(v));
    } else {
#if defined(__x86_64__)
        __asm__("" : "+v"(v));
#elif defined(__aarch64__)
        __asm__("" : "+w"(v));
#else
        __asm__("" : "+m"(v));
#endif
    }
    return v;
}

// A product that is rounded by itself. So coordinates, and decisions about valid cells, are the same on every machine
// and equal to plain torch's.
template <typename T, typename V>
VSAD_HD V product(T a, V b) {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(T) == 4)
        return __fmul_rn(a, b);
    else
        return __dmul_rn(a, b);
#else
    return rounded(a * b);
#endif
}

template <typename V>
struct Projection {
    V x, y, Z;  // Z > 0 in front; where it is not, x and y mean nothing
};

// (X, Y, Z) = H (x, y, 1); the divide is guarded, so a point that is not in front gives no infinity. x may be a vector
// of points that share one y.
template <typename T, typename V>
VSAD_HD Projection<V> project(const T* H, V x, T y) {
    const V X = product(H[0], x) + product(H[1], y) + H[2];
    const V Y = product(H[3], x) + product(H[4], y) + H[5];
    const V Z = product(H[6], x) + product(H[7], y) + H[8];
    const V divisor = Z > 0 ? Z : V{} + T(1);
    return {X / divisor, Y / divisor, Z};
}

// The interval [begin, end) of window offsets 0..R-1 whose coordinate s + offset - radius lies in [0, last].
template <typename T>
VSAD_HD void valid_interval(T s, int radius, T last, int& begin, int& end) {
    begin = 0;
    end = 2 * radius + 1;
    while (begin < end && !(s + T(begin - radius) >= 0)) ++begin;
    while (begin < end && !(s + T(end - 1 - radius) <= last)) --end;
}

// The valid cells of a window: those within the centers of the border pixels.
struct Cells {
    int row_begin, row_end, col_begin, col_end;
    VSAD_HD bool hold(int row, int col) const {
        return row >= row_begin && row < row_end && col >= col_begin && col < col_end;
    }
};

template <typename T>
VSAD_HD Cells valid_cells(T x, T y, int radius, int height, int width) {
    Cells cells;
    valid_interval(y, radius, T(height - 1), cells.row_begin, cells.row_end);
    valid_interval(x, radius, T(width - 1), cells.col_begin, cells.col_end);
    return cells;
}

// (1 - f) a + f b: what lies between two neighbors a and b; with a and b exchanged, what a neighbor receives from the
// two cells beside it. T is a number, V a number or a vector.
template <typename T, typename V>
VSAD_HD V mix(T f, V a, V b) {
    return (1 - f) * a + f * b;
}
// As mix, but only the second product can be fused with the addition, so that every function finds the same bits.
template <typename T, typename V>
VSAD_HD V mix_alike(T f, V a, V b) {
    return product(1 - f, a) + f * b;
}

template <typename V>
struct Gradient3 {
    V X, Y, Z;
};

// The gradient of H (x, y, 1), from the gradient (gx, gy) of the projected point p. That of H is the outer product with
// (x, y, 1).
template <typename V, typename G>
VSAD_HD Gradient3<G> project_backward(const Projection<V>& p, G gx, G gy) {
    const G X = gx / p.Z, Y = gy / p.Z;
    return {X, Y, -(X * p.x + Y * p.y)};
}

// dH += d (x, y, 1)^T
template <typename G, typename T>
VSAD_HD void add_outer_product(G* dH, const Gradient3<G>& d, T x, T y) {
    const G column[3] = {d.X, d.Y, d.Z};
    for (int i = 0; i < 3; ++i) {
        dH[3 * i + 0] += column[i] * x;
        dH[3 * i + 1] += column[i] * y;
        dH[3 * i + 2] += column[i];
    }
}

}  // namespace VSAD_ISA
}  // namespace vsad
