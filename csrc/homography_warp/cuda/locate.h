// Where a target pixel looks: the taps of each axis and their weights, as csrc/homography_warp/cpu/locate.h has them.
#pragma once
#include "common/geometry.h"
#include "cuda/device.h"
#include "homography_warp/arguments.h"

namespace vsad {
namespace cuda {

struct Padded {
    float at, slope;  // slope = d at / d s
};

// As grid_sample has it: on the border, and beyond, nothing changes with s.
__device__ __forceinline__ Padded pad(float s, float last, Padding padding) {
    if (padding == Padding::zeros) return {fminf(fmaxf(s, -4.0f), last + 4), 1.0f};
    float slope = 1;
    if (padding == Padding::reflection) {
        const float period = 2 * (last + 1), from = s + 0.5f, distance = fabsf(from);
        const float ahead = distance - floorf(distance / period) * period, back = period - ahead;
        slope = (ahead > back) != (from < 0) ? -1.0f : 1.0f;
        s = fminf(ahead, back) - 0.5f;
    }
    slope = s > 0 && s < last ? slope : 0.0f;
    return {fminf(fmaxf(s, 0.0f), last), slope};
}

template <int n>
struct Axis {
    int at[n];
    float weight[n], slope[n];  // slope = d weight / d s
};

// Cubic convolution with a = -3/4, as grid_sample has it.
__device__ __forceinline__ void cubic(Axis<4>& axis, float f) {
    constexpr float a = -0.75f;
    const auto near = [](float x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
    const auto far = [](float x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
    const auto near_slope = [](float x) { return (3 * (a + 2) * x - 2 * (a + 3)) * x; };
    const auto far_slope = [](float x) { return (3 * a * x - 10 * a) * x + 8 * a; };
    const float g = 1 - f;
    axis.weight[0] = far(f + 1), axis.weight[1] = near(f), axis.weight[2] = near(g), axis.weight[3] = far(g + 1);
    axis.slope[0] = far_slope(f + 1), axis.slope[1] = near_slope(f);
    axis.slope[2] = -near_slope(g), axis.slope[3] = -far_slope(g + 1);
}

// The taps of one axis; with zeros as the padding they may lie outside.
template <int n>
__device__ __forceinline__ Axis<n> taps_at(float s, float last, Padding padding) {
    Axis<n> axis;
    if constexpr (n == 4) {
        if (padding != Padding::reflection) s = fminf(fmaxf(s, -8.0f), last + 8);  // nothing changes beyond
        const float left = floorf(s);
        cubic(axis, s - left);
#pragma unroll
        for (int k = 0; k < n; ++k)
            axis.at[k] = int(padding == Padding::zeros ? left + (k - 1) : pad(left + (k - 1), last, padding).at);
    } else {
        const Padded padded = pad(s, last, padding);
        if constexpr (n == 1) {
            axis.at[0] = int(rintf(padded.at));
            axis.weight[0] = 1, axis.slope[0] = 0;
        } else {
            const float left = floorf(padded.at), f = padded.at - left;
            axis.at[0] = int(left);
            axis.at[1] = axis.at[0] + 1;
            if (padding != Padding::zeros && axis.at[1] > int(last)) axis.at[1] = axis.at[0];
            axis.weight[0] = 1 - f, axis.weight[1] = f;
            axis.slope[0] = -padded.slope, axis.slope[1] = padded.slope;
        }
    }
    return axis;
}

// A tap outside becomes its neighbour inside, which gives it half of its weight: nothing is read that has no part in
// the result (zero times infinity is NaN). False where no tap lies inside.
template <int n>
__device__ __forceinline__ bool move_inside(Axis<n>& axis, int last) {
    if (axis.at[n - 1] < 0 || axis.at[0] > last) return false;
    const auto give_half = [&](int from, int to) {
        axis.at[to] = axis.at[from];
        axis.weight[to] = axis.weight[from] *= 0.5f;
        axis.slope[to] = axis.slope[from] *= 0.5f;
    };
#pragma unroll
    for (int k = n - 2; k >= 0; --k)
        if (axis.at[k] < 0) give_half(k + 1, k);
#pragma unroll
    for (int k = 1; k < n; ++k)
        if (axis.at[k] > last) give_half(k - 1, k);
    return true;
}

template <int n>
struct Spot {
    Axis<n> x, y;
    float sx, sy, Z;
    bool alive;  // in front, and at least one tap inside
    bool valid;  // in front, and within the centres of the border pixels
};

template <int n>
__device__ __forceinline__ Spot<n> locate(const WarpArguments& a, std::int64_t b, int x, int y) {
    const float last_x = float(a.Ws - 1), last_y = float(a.Hs - 1), anywhere = float(a.anywhere);
    const float* H = static_cast<const float*>(a.homography) + b * a.homography_batch;
    const Projection<float> p = project(H, float(x), float(y));
    // NaN fails every comparison, so it is never converted to an integer
    const bool front =
        p.Z > 0 && p.x >= -anywhere && p.x <= last_x + anywhere && p.y >= -anywhere && p.y <= last_y + anywhere;
    Spot<n> spot;
    spot.Z = front ? p.Z : 1.0f;
    spot.sx = front ? p.x : 0.0f;
    spot.sy = front ? p.y : 0.0f;
    spot.valid = front && spot.sx >= 0 && spot.sx <= last_x && spot.sy >= 0 && spot.sy <= last_y;
    spot.x = taps_at<n>(spot.sx, last_x, a.padding);
    spot.y = taps_at<n>(spot.sy, last_y, a.padding);
    spot.alive = front;
    if (a.padding == Padding::zeros)
        spot.alive = front && move_inside(spot.x, int(a.Ws - 1)) && move_inside(spot.y, int(a.Hs - 1));
    return spot;
}

}  // namespace cuda
}  // namespace vsad
