// One item is an edge (target view, slot, source view), a batch and a head. No two items of a round share a
// target or a source of the same batch and head, so every item owns what it adds to: no atomics, and the same
// result for any number of threads.
#include "cpu/homography_align.h"
#include "cpu/homography_align_tile.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

template <typename T>
struct BackwardScratch {
    T *query, *out, *grad_out, *grad_query;  // of the tile's pixels, one head
    T *lse, *grad_lse, *inner;               // inner = <grad_out, out>
    T *key_box, *value_box, *grad_key_box, *grad_value_box;
    T *key_taps, *value_taps, *beta, *gamma;                      // of one pixel
    T *alpha, *grad_logit, *bias, *grad_bias, *mask, *full_mask;  // one per cell
    Window<T>* windows;
    Projection<T>* points;
    std::int64_t *key_offsets, *value_offsets;  // one per tap

    BackwardScratch(Arena& arena, const Plan<T>& plan) {
        const std::int64_t pixels = plan.tile_pixels();
        for (T** row : {&query, &grad_query}) *row = arena.take<T>(pixels * plan.key.row());
        for (T** row : {&out, &grad_out}) *row = arena.take<T>(pixels * plan.value.row());
        for (T** number : {&lse, &grad_lse, &inner}) *number = arena.take<T>(pixels);
        for (T** box : {&key_box, &grad_key_box}) *box = arena.take<T>(plan.box_pixels * plan.key.row());
        for (T** box : {&value_box, &grad_value_box}) *box = arena.take<T>(plan.box_pixels * plan.value.row());
        for (T** taps : {&key_taps, &value_taps, &beta, &gamma}) *taps = arena.take<T>(plan.padded_taps);
        for (T** cells : {&alpha, &grad_logit}) *cells = arena.take<T>(plan.cell_row());
        for (T** cells : {&bias, &grad_bias, &mask, &full_mask}) *cells = arena.take<T>(plan.padded_cells);
        windows = arena.take<Window<T>>(pixels);
        points = arena.take<Projection<T>>(pixels);
        for (std::int64_t** offsets : {&key_offsets, &value_offsets})
            *offsets = arena.take<std::int64_t>(plan.padded_taps);
    }

    void clear(const Plan<T>& plan) const {
        for (T* taps : {key_taps, value_taps}) fill(taps, plan.padded_taps, T(0));
        for (T* cells : {alpha, grad_logit}) fill(cells, plan.cell_row(), T(0));
        for (T* cells : {bias, grad_bias, mask}) fill(cells, plan.padded_cells, T(0));
        full_cells(full_mask, plan);
    }
};

// What an item works on.
template <typename T>
struct Item {
    const AlignGradients& gradients;
    const AlignArguments& a;
    Plan<T> plan;
    std::int64_t b, head;
    Edge edge;

    Item(const AlignGradients& g, std::int64_t index)
        : gradients(g),
          a(g.forward),
          plan(g.forward, 1, 2),
          b(index / a.heads / g.edge_count),
          head(index % a.heads),
          edge(g.edges[index / a.heads % g.edge_count]) {}

    // The first element of this head in a dense (B, views, height, width, channels) gradient.
    T* dense(void* data, std::int64_t views, std::int64_t view, std::int64_t pixels, int channels) const {
        return static_cast<T*>(data) + (b * views + view) * pixels * channels * a.heads + head * channels;
    }
};

// Loads the tile's rows, and <grad_out, out> of its pixels.
template <typename T, typename Element>
void load_tile(const Item<T>& item, const BackwardScratch<T>& s, Rectangle tile) {
    const AlignArguments& a = item.a;
    const Plan<T>& plan = item.plan;
    const std::int64_t b = item.b, v = item.edge.v;
    pack(s.query, plane<Element>(a.query, b, v, item.head * plan.key.count), a.query, tile, a.W, a.H, plan.key);
    const Image& grad_out = item.gradients.grad_out;
    const std::int64_t channel = item.head * plan.value.count;
    pack(s.out, plane<T>(a.out, b, v, channel), a.out, tile, a.W, a.H, plan.value);
    pack(s.grad_out, plane<Element>(grad_out, b, v, channel), grad_out, tile, a.W, a.H, plan.value);
    fill(s.grad_query, tile.area() * plan.key.row(), T(0));

    const std::int64_t first = ((b * a.V + v) * a.heads + item.head) * a.H * a.W;
    const T *lse = static_cast<const T*>(a.lse), *grad_lse = static_cast<const T*>(item.gradients.grad_lse);
    for (int y = 0; y < tile.height; ++y)
        for (int x = 0; x < tile.width; ++x) {
            const std::int64_t pixel = y * tile.width + x, at = first + (tile.y + y) * a.W + tile.x + x;
            Vector<T> sum = {};
            for (std::int64_t c = pixel * plan.value.row(); c < (pixel + 1) * plan.value.row(); c += kLanes<T>)
                sum += load(s.out + c) * load(s.grad_out + c);
            s.lse[pixel] = lse[at];
            s.grad_lse[pixel] = grad_lse ? grad_lse[at] : T(0);
            s.inner[pixel] = sum_lanes<T>(sum);
        }
}

// Softmax weights and logit gradients of one pixel's cells, and the gradient (gx, gy) of its projected point.
template <typename T>
VSAD_HD void differentiate(const BackwardScratch<T>& s, const Plan<T>& plan, const Window<T>& window, const T* mask,
                           T scale, std::int64_t pixel, T& gx, T& gy) {
    const Weights<T> w(window.fx, window.fy);
    T *alpha = s.alpha + plan.margin, *grad_logit = s.grad_logit + plan.margin;
    const int side = plan.side;
    const T lse = s.lse[pixel], grad_lse = s.grad_lse[pixel], inner = s.inner[pixel];
    Vector<T> sum_x = {}, sum_y = {};
    for (int c = 0; c < plan.padded_cells; c += kLanes<T>) {
        const T *t = s.key_taps + c, *g = s.value_taps + c;
        const Vector<T> t00 = load(t), t01 = load(t + 1), t10 = load(t + side), t11 = load(t + side + 1);
        const Vector<T> g00 = load(g), g01 = load(g + 1), g10 = load(g + side), g11 = load(g + side + 1);
        const Vector<T> weight = exp_of_nonpositive(logits_at(c, s.key_taps, mask, s.bias, w, scale, side) - lse);
        // A cell without rivals has inner = g: a logit that changes nothing gets no gradient from rounding.
        const Vector<T> value = interpolate(w, g00, g01, g10, g11);
        const Vector<T> lead = value - (weight == 1 ? value : broadcast(inner));
        const Vector<T> d = weight * (lead + grad_lse), scaled = scale * d;
        sum_x += scaled * slope_x(window.fy, t00, t01, t10, t11) + weight * slope_x(window.fy, g00, g01, g10, g11);
        sum_y += scaled * slope_y(window.fx, t00, t01, t10, t11) + weight * slope_y(window.fx, g00, g01, g10, g11);
        store(alpha + c, weight);
        store(grad_logit + c, scaled);
        store(s.grad_bias + c, load(s.grad_bias + c) + d);
    }
    cells_to_taps(s.beta, alpha, w, plan);
    cells_to_taps(s.gamma, grad_logit, w, plan);
    gx = sum_lanes<T>(sum_x);
    gy = sum_lanes<T>(sum_y);
}

// box[tap] += weight[tap] * row
template <typename T>
VSAD_HD void scatter_taps(T* box, const T* weight, const T* row, const std::int64_t* offsets, int taps, int channels) {
    for (int c = 0; c < channels; c += kLanes<T>) {
        const Vector<T> r = load(row + c);
        for (int tap = 0; tap < taps; ++tap) {
            T* to = box + offsets[tap] + c;
            store(to, load(to) + weight[tap] * r);
        }
    }
}

template <typename T>
void backward_box(const Item<T>& item, const BackwardScratch<T>& s, double* grad_homography, Rectangle tile,
                  Rectangle part, Rectangle box) {
    const Plan<T>& plan = item.plan;
    const std::int64_t key_row = plan.key.row(), value_row = plan.value.row();
    tap_offsets(s.key_offsets, plan, box.width, key_row);
    tap_offsets(s.value_offsets, plan, box.width, value_row);
    for (int y = part.y; y < part.y + part.height; ++y)
        for (int x = part.x; x < part.x + part.width; ++x) {
            const std::int64_t pixel = y * tile.width + x;
            const Window<T>& window = s.windows[pixel];
            if (window.empty() || s.lse[pixel] == T(-__builtin_inf())) continue;
            const std::int64_t first = std::int64_t(window.top - box.y) * box.width + (window.left - box.x);
            const T *query = s.query + pixel * key_row, *grad_out = s.grad_out + pixel * value_row;
            const bool full = window.full(plan.R);
            if (!full) valid_cells(s.mask, plan, window);

            dot_taps(s.key_taps, query, s.key_box + first * key_row, s.key_offsets, plan, plan.key.padded);
            dot_taps(s.value_taps, grad_out, s.value_box + first * value_row, s.value_offsets, plan, plan.value.padded);
            T gx, gy;
            differentiate(s, plan, window, full ? s.full_mask : s.mask, T(item.a.scale), pixel, gx, gy);
            add_taps(s.grad_query + pixel * key_row, T(1), s.gamma, s.key_box + first * key_row, s.key_offsets,
                     plan.taps, plan.key.padded);
            scatter_taps(s.grad_key_box + first * key_row, s.gamma, query, s.key_offsets, plan.taps, plan.key.padded);
            scatter_taps(s.grad_value_box + first * value_row, s.beta, grad_out, s.value_offsets, plan.taps,
                         plan.value.padded);
            if (grad_homography)
                add_homography_gradient(grad_homography, s.points[pixel], double(gx), double(gy), T(tile.x + x),
                                        T(tile.y + y));
        }
}

// Adds a packed box, as far as it lies in the image, to this head's channels of a dense gradient.
template <typename T>
void add_box(T* to, const T* box, Rectangle at, std::int64_t width, std::int64_t height, std::int64_t pixel_stride,
             Channels channels) {
    for (int y = greater(0, -at.y); y < at.height && at.y + y < height; ++y)
        for (int x = greater(0, -at.x); x < at.width && at.x + x < width; ++x) {
            const T* from = box + (std::int64_t(y) * at.width + x) * channels.row();
            T* pixel = to + ((at.y + y) * width + at.x + x) * pixel_stride;
            for (int c = 0; c < channels.count; ++c) pixel[c] += from[c];
        }
}

// The tile's bias gradient, added on in double: a whole image's worth of terms follows.
template <typename T>
void flush_bias(const Item<T>& item, const BackwardScratch<T>& s) {
    const AlignArguments& a = item.a;
    const int R = item.plan.R, side = item.plan.side;
    if (item.gradients.bias) {
        double* to =
            item.gradients.bias + (((item.b * a.V + item.edge.v) * a.heads + item.head) * a.N + item.edge.n) * R * R;
        for (int row = 0; row < R; ++row)
            for (int col = 0; col < R; ++col) to[row * R + col] += double(s.grad_bias[row * side + col]);
    }
    fill(s.grad_bias, item.plan.padded_cells, T(0));
}

template <typename Element>
void backward_item(const void* arguments, std::int64_t index, char* scratch) {
    using T = typename Compute<Element>::type;
    const Item<T> item(*static_cast<const AlignGradients*>(arguments), index);
    const AlignGradients& g = item.gradients;
    const AlignArguments& a = item.a;
    const Plan<T>& plan = item.plan;
    const std::int64_t v = item.edge.v, n = item.edge.n, source = item.edge.s;
    Arena arena(scratch);
    const BackwardScratch<T> s(arena, plan);
    s.clear(plan);
    load_bias(s.bias, a, plan, int(item.head), n);

    const T* H = static_cast<const T*>(a.homography) + item.b * a.homography_batch + (v * a.N + n) * 9;
    double* grad_H = g.homography ? g.homography + (((item.head * a.B + item.b) * a.V + v) * a.N + n) * 9 : nullptr;
    T* grad_query = g.query ? item.dense(g.query, a.V, v, a.H * a.W, plan.key.count) : nullptr;
    T* grad_key = g.key ? item.dense(g.key, a.S, source, a.Hs * a.Ws, plan.key.count) : nullptr;
    T* grad_value = g.value ? item.dense(g.value, a.S, source, a.Hs * a.Ws, plan.value.count) : nullptr;

    for (std::int64_t t = 0; t < plan.tiles(a); ++t) {
        const Rectangle tile = plan.tile(a, t);
        if (!project_tile(s.windows, s.points, a, H, tile)) continue;
        load_tile<T, Element>(item, s, tile);
        for_each_box(s.windows, tile.width, {0, 0, tile.width, tile.height}, plan, [&](Rectangle part, Rectangle box) {
            pack(s.key_box, plane<Element>(a.key, item.b, source, item.head * plan.key.count), a.key, box, a.Ws, a.Hs,
                 plan.key);
            pack(s.value_box, plane<Element>(a.value, item.b, source, item.head * plan.value.count), a.value, box, a.Ws,
                 a.Hs, plan.value);
            fill(s.grad_key_box, box.area() * plan.key.row(), T(0));
            fill(s.grad_value_box, box.area() * plan.value.row(), T(0));
            backward_box(item, s, grad_H, tile, part, box);
            if (grad_key) add_box(grad_key, s.grad_key_box, box, a.Ws, a.Hs, a.C, plan.key);
            if (grad_value) add_box(grad_value, s.grad_value_box, box, a.Ws, a.Hs, a.Cv, plan.value);
        });
        if (grad_query) add_box(grad_query, s.grad_query, tile, a.W, a.H, a.C, plan.key);
        flush_bias(item, s);
    }
}

template <typename Element>
Work backward_work(const AlignGradients& g) {
    using T = typename Compute<Element>::type;
    const Plan<T> plan(g.forward, 1, 2);
    Arena arena(nullptr);
    BackwardScratch<T>(arena, plan);
    return {g.forward.B * g.edge_count * g.forward.heads, plan.threads, arena.used(), &backward_item<Element>};
}

}  // namespace

Work homography_align_backward(const AlignGradients& g) {
    switch (g.forward.dtype) {
        case Scalar::float64:
            return backward_work<double>(g);
        case Scalar::bfloat16:
            return backward_work<bfloat16>(g);
        case Scalar::float16:
            return backward_work<float16>(g);
        default:
            return backward_work<float>(g);
    }
}

}  // namespace VSAD_ISA
}  // namespace vsad
