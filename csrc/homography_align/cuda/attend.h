// The forward with ordinary instructions: any dtype, any number of channels.
#pragma once
#include "homography_align/cuda/window.h"

namespace vsad {
namespace cuda {
namespace {

// The forward of one head and of the value channels that Sums hold from pack `begin` on, for one target pixel of kLanes
// lanes, of a warp that does the same for others. The softmax is online over rows of cells.
template <typename Element, int R, int kLanes>
__device__ __forceinline__ void attend(const AlignArguments& a, int b, int v, int head, int begin, int x, int y) {
    const bool exists = x < a.W && y < a.H;
    const int key_channel = head * a.key_packs * kPack<Element>, value_channel = head * a.value_packs * kPack<Element>;

    const Row<Element, kLanes> query(a.query, b, v, x, y, key_channel, a.key_packs, exists);
    Sums<Element, kLanes> out(begin, a.value_packs);
    const float nothing = -__builtin_inff(), scale = a.scale * kLog2E;  // logits are to the base 2
    float peak = nothing, total = 0;
    for (int slot = 0; slot < a.N; ++slot) {
        const int source = source_of(a, v, slot);
        if (source < 0) continue;
        const Window<R> w(a, homography_of(a, b, v, slot), x, y, exists);
        if (!__any_sync(kWarp, w.useful)) continue;
        const Taps<Element, R> keys(a.key, b, source, key_channel, a, w);
        const Taps<Element, R> values(a.value, b, source, value_channel, a, w);
        const float* bias = a.bias ? a.bias + bias_at(a, head, slot) : nullptr;

        float t[R + 1], mixed[R], above[R + 1] = {};
        dot_row(t, query, keys, w, 0);
#pragma unroll
        for (int i = 0; i < R; ++i) mixed[i] = mix(w.fx, t[i], t[i + 1]);
#pragma unroll 1
        for (int row = 0; row <= R; ++row) {
            float below[R + 1] = {};
            if (row < R) {
                dot_row(t, query, keys, w, row + 1);
                float cells[R], highest = peak;
#pragma unroll
                for (int i = 0; i < R; ++i) {
                    const float next = mix(w.fx, t[i], t[i + 1]);
                    const float logit = scale * mix(w.fy, mixed[i], next) + (bias ? kLog2E * bias[row * R + i] : 0.f);
                    cells[i] = w.cells.hold(row, i) ? logit : nothing;
                    highest = cells[i] > highest ? cells[i] : highest;
                    mixed[i] = next;
                }
                if (highest > peak) {
                    const float keep = exp2f(peak - highest);
                    total *= keep;
#pragma unroll
                    for (int i = 0; i <= R; ++i) above[i] *= keep;
#pragma unroll
                    for (auto& pack : out.sum)
#pragma unroll
                        for (float& sum : pack) sum *= keep;
                    peak = highest;
                }
                const float shift = peak == nothing ? 0.f : peak;  // nothing valid yet: exp(-inf - 0) = 0
#pragma unroll
                for (int i = 0; i < R; ++i) total += cells[i] = exp2f(cells[i] - shift);
                spread<R>(below, cells, w.fx);
            }
            float beta[R + 1];
            mix_rows(beta, w.fy, below, above);
            out.add_row(beta, values, w, row);
#pragma unroll
            for (int i = 0; i <= R; ++i) above[i] = below[i];
        }
    }
    if (!exists) return;
    if (begin == 0 && query.lane() == 0)
        a.lse[number_at(a, b, v, head, x, y)] = total == 0 ? nothing : kLn2 * (peak + log2f(total));
    out.store(reinterpret_cast<Element*>(a.out.data) + b * a.out.batch + v * a.out.view + y * a.out.y + x * a.out.x +
                  value_channel,
              total == 0 ? 0.f : 1 / total);
}

}  // namespace
}  // namespace cuda
}  // namespace vsad
