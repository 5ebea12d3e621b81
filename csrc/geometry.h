// Projection, windows and bilinear interpolation: the mathematics of homography_align, for host and device.
//
// Pixel coordinates are (x, y), y down, the centre of pixel (i, j) is x=j, y=i. A homography maps target
// pixels to source pixels. The cells of an R x R window are one pixel apart, so they share the fractions of
// the projected point and touch only (R+1)^2 integer taps. Taps and cells are both laid out in rows of R+1:
// cell c lies between the taps c, c+1, c+R+1 and c+R+2. Each row of cells therefore ends with one column that
// is no cell and never valid.
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

// a * b rounded, never fused with the addition that follows: coordinates come out the same on every machine
// and equal to plain torch's, and so do the decisions which cells are valid.
template <typename T>
VSAD_HD T product(T a, T b) {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(T) == 4)
        return __fmul_rn(a, b);
    else
        return __dmul_rn(a, b);
#else
    T p = a * b;
#if defined(__x86_64__)
    __asm__("" : "+x"(p));
#elif defined(__aarch64__)
    __asm__("" : "+w"(p));
#endif
    return p;
#endif
}

template <typename T>
struct Projection {
    T x, y, Z;  // Z > 0 in front; where it is not, x and y mean nothing
};

// (X, Y, Z) = H (x, y, 1); the divide is guarded, so a point that is not in front gives no infinity.
template <typename T>
VSAD_HD Projection<T> project(const T* H, T x, T y) {
    const T X = product(H[0], x) + product(H[1], y) + H[2];
    const T Y = product(H[3], x) + product(H[4], y) + H[5];
    const T Z = product(H[6], x) + product(H[7], y) + H[8];
    const T divisor = Z > 0 ? Z : T(1);
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

template <typename T>
struct Window {
    T fx, fy;                                    // fractions, shared by all cells
    int left, top;                               // the first tap
    int row_begin, row_end, col_begin, col_end;  // the valid cells; none when row_begin == row_end

    VSAD_HD bool empty() const { return row_begin == row_end; }
    VSAD_HD bool full(int R) const { return row_begin == 0 && col_begin == 0 && row_end == R && col_end == R; }
};

// The window of `radius` around a projected point, cut to the cells within the centres of the border pixels.
template <typename T>
VSAD_HD Window<T> window_at(const Projection<T>& p, int radius, int height, int width) {
    const T reach = T(radius), last_x = T(width - 1), last_y = T(height - 1);
    // !(inside): NaN fails every comparison and must be rejected before it is converted to an integer.
    if (!(p.Z > 0 && p.x >= -reach && p.x <= last_x + reach && p.y >= -reach && p.y <= last_y + reach))
        return {0, 0, 0, 0, 0, 0, 0, 0};
    Window<T> window;
    valid_interval(p.x, radius, last_x, window.col_begin, window.col_end);
    valid_interval(p.y, radius, last_y, window.row_begin, window.row_end);
    if (window.col_begin == window.col_end) window.row_begin = window.row_end = 0;
    const T x = round_down(p.x), y = round_down(p.y);
    window.fx = p.x - x;
    window.fy = p.y - y;
    window.left = int(x) - radius;
    window.top = int(y) - radius;
    return window;
}

// Bilinear weights of a cell's taps: [row][column].
template <typename T>
struct Weights {
    T w00, w01, w10, w11;
    VSAD_HD Weights(T fx, T fy) : w00((1 - fy) * (1 - fx)), w01((1 - fy) * fx), w10(fy * (1 - fx)), w11(fy * fx) {}
};

// The functions below take scalars, or vectors of neighbouring cells or taps.

template <typename T, typename V>
VSAD_HD V interpolate(const Weights<T>& w, V t00, V t01, V t10, V t11) {
    return w.w00 * t00 + w.w01 * t01 + w.w10 * t10 + w.w11 * t11;
}

// What a tap receives from the cells it belongs to: the transpose of `interpolate`. c00 is the cell whose
// first tap it is, c01 the cell to the left, c10 the one above, c11 the one above and to the left.
template <typename T, typename V>
VSAD_HD V distribute(const Weights<T>& w, V c00, V c01, V c10, V c11) {
    return w.w00 * c00 + w.w01 * c01 + w.w10 * c10 + w.w11 * c11;
}

// Derivatives of `interpolate` with respect to fx and fy.
template <typename T, typename V>
VSAD_HD V slope_x(T fy, V t00, V t01, V t10, V t11) {
    return (1 - fy) * (t01 - t00) + fy * (t11 - t10);
}
template <typename T, typename V>
VSAD_HD V slope_y(T fx, V t00, V t01, V t10, V t11) {
    return (1 - fx) * (t10 - t00) + fx * (t11 - t01);
}

// dH += (dX, dY, dZ)^T (x, y, 1), for the gradient (gx, gy) of a projected point.
template <typename T>
VSAD_HD void add_homography_gradient(double* dH, const Projection<T>& p, double gx, double gy, T x, T y) {
    const double dX = gx / p.Z, dY = gy / p.Z, dZ = -(dX * p.x + dY * p.y);
    const double column[3] = {dX, dY, dZ};
    for (int i = 0; i < 3; ++i) {
        dH[3 * i + 0] += column[i] * x;
        dH[3 * i + 1] += column[i] * y;
        dH[3 * i + 2] += column[i];
    }
}

}  // namespace VSAD_ISA
}  // namespace vsad
