#include "cpu/homography_align.h"

#include "cpu/homography_align_tile.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// The online softmax of one pixel and head over one more slot. Leaves beta in `taps`, returns the factor by
// which what was summed before must shrink.
template <typename T>
VSAD_HD T attend(T* taps, T* cells, T& peak, T& total, const T* mask, const T* bias, const Weights<T>& w, T scale,
                 const Plan<T>& plan) {
    constexpr int lanes = kLanes<T>;
    const T nothing = T(-__builtin_inf());
    Vector<T> highest = broadcast(peak), sum = {};
    for (int c = 0; c < plan.padded_cells; c += lanes) {
        const Vector<T> logit = logits_at(c, taps, mask, bias, w, scale, plan.side);
        highest = logit > highest ? logit : highest;
        store(cells + c, logit);
    }
    const T new_peak = max_lanes<T>(highest);
    const T shift = new_peak == nothing ? T(0) : new_peak;  // nothing valid yet: exp(-inf - 0) = 0
    for (int c = 0; c < plan.padded_cells; c += lanes) {
        const Vector<T> alpha = exp_of_nonpositive(load(cells + c) - shift);
        sum += alpha;
        store(cells + c, alpha);
    }
    cells_to_taps(taps, cells, w, plan);
    const T keep = exp_of_nonpositive(broadcast(peak - shift))[0];
    peak = new_peak;
    total = total * keep + sum_lanes<T>(sum);
    return keep;
}

template <typename T>
struct ForwardScratch {
    T *query, *sum, *peak, *total;  // of the tile's pixels
    T *key_box, *value_box;
    T *taps, *cells, *keep;      // of one pixel, for every head
    T *bias, *mask, *full_mask;  // one per cell; the bias for every head
    Window<T>* windows;
    Projection<T>* points;
    std::int64_t *key_offsets, *value_offsets;  // one per tap

    ForwardScratch(Arena& arena, const Plan<T>& plan) {
        const std::int64_t pixels = plan.tile_pixels(), heads = plan.key.heads;
        query = arena.take<T>(pixels * plan.key.row());
        sum = arena.take<T>(pixels * plan.value.row());
        peak = arena.take<T>(pixels * heads);
        total = arena.take<T>(pixels * heads);
        key_box = arena.take<T>(plan.box_pixels * plan.key.row());
        value_box = arena.take<T>(plan.box_pixels * plan.value.row());
        taps = arena.take<T>(heads * plan.padded_taps);
        cells = arena.take<T>(heads * plan.cell_row());
        keep = arena.take<T>(heads);
        bias = arena.take<T>(heads * plan.padded_cells);
        mask = arena.take<T>(plan.padded_cells);
        full_mask = arena.take<T>(plan.padded_cells);
        windows = arena.take<Window<T>>(pixels);
        points = arena.take<Projection<T>>(pixels);
        key_offsets = arena.take<std::int64_t>(plan.padded_taps);
        value_offsets = arena.take<std::int64_t>(plan.padded_taps);
    }

    void clear(const Plan<T>& plan) const {
        const std::int64_t pixels = plan.tile_pixels(), heads = plan.key.heads;
        fill(sum, pixels * plan.value.row(), T(0));
        fill(peak, pixels * heads, T(-__builtin_inf()));
        fill(total, pixels * heads, T(0));
        fill(taps, heads * plan.padded_taps, T(0));
        fill(cells, heads * plan.cell_row(), T(0));
        fill(bias, heads * plan.padded_cells, T(0));
        fill(mask, plan.padded_cells, T(0));
        full_cells(full_mask, plan);
    }
};

// One slot of a tile's part: all windows lie in `box`.
template <typename T>
void attend_box(const ForwardScratch<T>& s, const Plan<T>& plan, T scale, int tile_width, Rectangle part,
                Rectangle box) {
    const int heads = plan.key.heads;
    tap_offsets(s.key_offsets, plan, box.width, plan.key.row());
    tap_offsets(s.value_offsets, plan, box.width, plan.value.row());
    for (int y = part.y; y < part.y + part.height; ++y)
        for (int x = part.x; x < part.x + part.width; ++x) {
            const std::int64_t pixel = y * tile_width + x;
            const Window<T>& window = s.windows[pixel];
            if (window.empty()) continue;
            const std::int64_t first = std::int64_t(window.top - box.y) * box.width + (window.left - box.x);
            const T *query = s.query + pixel * plan.key.row(), *key = s.key_box + first * plan.key.row();
            const T* value = s.value_box + first * plan.value.row();
            const Weights<T> weights(window.fx, window.fy);
            const bool full = window.full(plan.R);
            if (!full) valid_cells(s.mask, plan, window);

            // Three passes, so that what one head stores has settled before it is read at other offsets.
            for (int h = 0; h < heads; ++h)
                dot_taps(s.taps + h * plan.padded_taps, query + h * plan.key.padded, key + h * plan.key.padded,
                         s.key_offsets, plan, plan.key.padded);
            for (int h = 0; h < heads; ++h)
                s.keep[h] = attend(s.taps + h * plan.padded_taps, s.cells + h * plan.cell_row() + plan.margin,
                                   s.peak[pixel * heads + h], s.total[pixel * heads + h], full ? s.full_mask : s.mask,
                                   s.bias + h * plan.padded_cells, weights, scale, plan);
            for (int h = 0; h < heads; ++h)
                add_taps(s.sum + pixel * plan.value.row() + h * plan.value.padded, s.keep[h],
                         s.taps + h * plan.padded_taps, value + h * plan.value.padded, s.value_offsets, plan.taps,
                         plan.value.padded);
        }
}

// out = sum / total and lse = peak + log(total); 0 and -inf where nothing was valid.
template <typename T, typename Element>
void write_tile(const AlignArguments& a, const ForwardScratch<T>& s, const Plan<T>& plan, std::int64_t b,
                std::int64_t v, Rectangle tile) {
    const int heads = plan.key.heads, count = plan.value.count;
    T* lse = static_cast<T*>(a.lse) + (b * a.V + v) * heads * a.H * a.W;
    Element* out = const_cast<Element*>(plane<Element>(a.out, b, v, 0));
    for (int y = 0; y < tile.height; ++y)
        for (int x = 0; x < tile.width; ++x)
            for (int h = 0; h < heads; ++h) {
                const std::int64_t pixel = y * tile.width + x, state = pixel * heads + h;
                const T total = s.total[state], inverse = total == 0 ? T(0) : 1 / total;
                lse[(h * a.H + tile.y + y) * a.W + tile.x + x] =
                    total == 0 ? T(-__builtin_inf()) : s.peak[state] + T(__builtin_log(total));
                const T* sum = s.sum + pixel * plan.value.row() + h * plan.value.padded;
                Element* to =
                    out + (tile.y + y) * a.out.y + (tile.x + x) * a.out.x + std::int64_t(h) * count * a.out.channel;
                if (a.out.channel == 1)
                    for (int c = 0; c < count; ++c) to[c] = narrow<Element>(sum[c] * inverse);
                else
                    for (int c = 0; c < count; ++c) to[c * a.out.channel] = narrow<Element>(sum[c] * inverse);
            }
}

template <typename Element>
void forward_tile(const void* arguments, std::int64_t item, char* scratch) {
    using T = typename Compute<Element>::type;
    const AlignArguments& a = *static_cast<const AlignArguments*>(arguments);
    const Plan<T> plan(a, a.heads, 1);
    const std::int64_t view = item / plan.tiles(a), b = view / a.V, v = view % a.V;
    const Rectangle tile = plan.tile(a, item % plan.tiles(a));
    Arena arena(scratch);
    const ForwardScratch<T> s(arena, plan);
    s.clear(plan);

    pack(s.query, plane<Element>(a.query, b, v, 0), a.query, tile, a.W, a.H, plan.key);
    for (std::int64_t n = 0; n < a.N; ++n) {
        const std::int64_t source = a.neighbors[v * a.N + n];
        const T* H = static_cast<const T*>(a.homography) + b * a.homography_batch + (v * a.N + n) * 9;
        if (source < 0 || !project_tile(s.windows, s.points, a, H, tile)) continue;
        for (int h = 0; h < a.heads; ++h) load_bias(s.bias + h * plan.padded_cells, a, plan, h, n);
        for_each_box(s.windows, tile.width, {0, 0, tile.width, tile.height}, plan, [&](Rectangle part, Rectangle box) {
            pack(s.key_box, plane<Element>(a.key, b, source, 0), a.key, box, a.Ws, a.Hs, plan.key);
            pack(s.value_box, plane<Element>(a.value, b, source, 0), a.value, box, a.Ws, a.Hs, plan.value);
            attend_box(s, plan, T(a.scale), tile.width, part, box);
        });
    }
    if (a.wide_out)
        write_tile<T, T>(a, s, plan, b, v, tile);
    else
        write_tile<T, Element>(a, s, plan, b, v, tile);
}

template <typename Element>
Work forward_work(const AlignArguments& a) {
    using T = typename Compute<Element>::type;
    const Plan<T> plan(a, a.heads, 1);
    Arena arena(nullptr);
    ForwardScratch<T>(arena, plan);
    return {a.B * a.V * plan.tiles(a), plan.threads, arena.used(), &forward_tile<Element>};
}

}  // namespace

Work homography_align_forward(const AlignArguments& a) {
    switch (a.dtype) {
        case Scalar::float64:
            return forward_work<double>(a);
        case Scalar::bfloat16:
            return forward_work<bfloat16>(a);
        case Scalar::float16:
            return forward_work<float16>(a);
        default:
            return forward_work<float>(a);
    }
}

}  // namespace VSAD_ISA
}  // namespace vsad
