// The gradients. One item is a tile of target pixels, an edge (target view, slot, source view), an element of the batch
// and a batch of heads. Items run in parallel, but those that add to the same gradient do so in the order of their
// indices: every source and every target counts the items that are done with it, and an item waits for its turn. So the
// result is bit-identical for any number of threads, without atomic additions. Items also start in that order, so an
// item only ever waits for one that is already running; and consecutive edges share neither source nor target where
// possible, so it rarely waits long.
#include "homography_align/cpu/kernels.h"

#include "cpu/dispatch.h"
#include "homography_align/cpu/window.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

template <typename T>
struct BackwardScratch {
    T *query, *out, *grad_out, *grad_query;    // tile pixels
    T *peak, *log_sum, *grad_log_sum, *inner;  // one vector per pixel; inner = <grad_out, out>
    T *gx, *gy;                                // gradients of the projected points, laid out as in Windows
    T *key_box, *value_box, *grad_key_box, *grad_value_box;
    T *bias, *grad_bias;       // laid out as cells
    T *key_taps, *value_taps;  // pixels of a run
    T *alpha, *grad_logit;     // cells: alpha of every pixel of a run, grad_logit of one pixel
    Mask<T>* mask;
    Move *key_moves, *value_moves;
    Windows<T> windows;

    BackwardScratch(Arena& arena, const Plan<T>& plan) : windows(arena, plan) {
        const std::int64_t pixels = plan.tile_pixels(), cells = plan.side * plan.quads * kLanes<T>;
        for (T** row : {&query, &grad_query}) *row = arena.take<T>(pixels * plan.key.row());
        for (T** row : {&out, &grad_out}) *row = arena.take<T>(pixels * plan.value.row());
        for (T** number : {&peak, &log_sum, &grad_log_sum, &inner}) *number = arena.take<T>(pixels * kLanes<T>);
        for (T** number : {&gx, &gy}) *number = arena.take<T>(plan.pitch() * plan.tile_height);
        for (T** box : {&key_box, &grad_key_box}) *box = arena.take<T>(plan.box_pixels * plan.key.row());
        for (T** box : {&value_box, &grad_value_box}) *box = arena.take<T>(plan.box_pixels * plan.value.row());
        for (T** row : {&bias, &grad_bias, &grad_logit}) *row = arena.take<T>(cells);
        for (T** rows : {&key_taps, &value_taps, &alpha}) *rows = arena.take<T>(kRun * cells);
        mask = arena.take<Mask<T>>(plan.side * plan.quads);
        key_moves = arena.take<Move>(plan.key.moves);
        value_moves = arena.take<Move>(plan.value.moves);
    }
};

// An item's place in the call.
template <typename T>
struct Item {
    const AlignBackwardArguments& gradients;
    const AlignArguments& a;
    const Plan<T>& plan;
    std::int64_t batch, b, index;
    const Edge& edge;
    std::int64_t tile;

    Item(const AlignBackwardArguments& g, const Plan<T>& plan, std::int64_t item)
        : gradients(g),
          a(g.forward),
          plan(plan),
          batch(item % plan.key.batches),
          b(item / plan.key.batches % a.B),
          index(item / plan.key.batches / a.B % g.edge_count),
          edge(g.edges[index]),
          tile(item / plan.key.batches / a.B / g.edge_count) {}

    // The first element of this batch of heads in a dense (B, views, height, width, channels) gradient.
    T* dense(void* data, std::int64_t views, std::int64_t view, std::int64_t pixels, const Channels<T>& c) const {
        if (!data) return nullptr;
        return static_cast<T*>(data) + (b * views + view) * pixels * c.count * a.heads + batch * c.batch_channels();
    }
    Image dense_image(const Channels<T>& c, std::int64_t width) const {
        const std::int64_t pixel = std::int64_t(c.count) * a.heads;
        return {nullptr, 0, 0, 1, width * pixel, pixel};
    }
    // Prefetches what item `number` reads, which this thread probably takes next.
    template <typename Element>
    void look_ahead(Prefetch& ahead, std::int64_t number) const {
        if (number >= plan.tiles(a) * gradients.edge_count * a.B * plan.key.batches) return;
        const Item next(gradients, plan, number);
        const std::int64_t v = next.edge.v, source = next.edge.s;
        const std::int64_t k = next.batch * plan.key.batch_channels(), o = next.batch * plan.value.batch_channels();
        const Rectangle tile = plan.tile(a, next.tile);
        const Rectangle box = guess_box(a, plan, next.homography(), tile);
        ahead.add(plane<Element>(a.key, next.b, source, k), a.key, box, a.Ws, a.Hs);
        ahead.add(plane<Element>(a.value, next.b, source, o), a.value, box, a.Ws, a.Hs);
        ahead.add(plane<Element>(a.query, next.b, v, k), a.query, tile, a.W, a.H);
        ahead.add(plane<T>(a.out, next.b, v, o), a.out, tile, a.W, a.H);
        ahead.add(plane<Element>(gradients.grad_out, next.b, v, o), gradients.grad_out, tile, a.W, a.H);
    }
    const T* homography() const {
        return static_cast<const T*>(a.homography) + b * a.homography_batch + (edge.v * a.N + edge.n) * 9;
    }
    Turn source() const {
        return {gradients.turns + ((a.B * a.V + b * a.S + edge.s) * plan.key.batches + batch) * kTurnStride,
                tile * edge.source_count + edge.source_rank};
    }
    Turn target() const {
        return {gradients.turns + ((b * a.V + edge.v) * plan.key.batches + batch) * kTurnStride,
                tile * edge.target_count + edge.target_rank};
    }
};

template <typename T>
VSAD_HD void store_quad(T* to, T x) {
    const Quad<T> quad = x - Quad<T>{};
    __builtin_memcpy(to, &quad, sizeof quad);
}

// Packs the tile's rows and finds <grad_out, out> of its pixels.
template <typename T, typename Element>
void load_tile(const Item<T>& item, const BackwardScratch<T>& s, Rectangle tile) {
    const AlignArguments& a = item.a;
    const Channels<T>&key = item.plan.key, &value = item.plan.value;
    const std::int64_t b = item.b, v = item.edge.v;
    const Image& grad_out = item.gradients.grad_out;
    const std::int64_t channel = item.batch * value.batch_channels();
    pack(s.query, plane<Element>(a.query, b, v, item.batch * key.batch_channels()), a.query, tile, a.W, a.H, key,
         s.key_moves);
    pack(s.out, plane<T>(a.out, b, v, channel), a.out, tile, a.W, a.H, value, s.value_moves);
    pack(s.grad_out, plane<Element>(grad_out, b, v, channel), grad_out, tile, a.W, a.H, value, s.value_moves);
    fill(s.grad_query, tile.area() * std::int64_t(key.row()), T(0));

    const T *peak = static_cast<const T*>(a.peak), *log_sum = static_cast<const T*>(a.log_sum);
    const T* grad_log_sum = static_cast<const T*>(item.gradients.grad_log_sum);
    const std::int64_t plane_pixels = a.H * a.W;
    const std::int64_t first = ((b * a.V + v) * a.heads + item.batch * value.together) * plane_pixels;
    for (int y = 0; y < tile.height; ++y)
        for (int x = 0; x < tile.width; ++x) {
            const std::int64_t pixel = y * tile.width + x, at = first + (tile.y + y) * a.W + tile.x + x;
            Vector<T> sum = {};
            for (std::int64_t c = pixel * value.row(); c < (pixel + 1) * value.row(); c += kLanes<T>)
                sum += load(s.out + c) * load(s.grad_out + c);
            store(s.inner + pixel * kLanes<T>, sum_over_span<T>(sum_in_quads<T>(sum), value.span));
            for (int h = 0; h < value.together; ++h)
                for (int quad = 0; quad < value.span; ++quad) {
                    const std::int64_t lane = pixel * kLanes<T> + (h * value.span + quad) * 4;
                    const std::int64_t from = at + h * plane_pixels;
                    // Without a valid cell the peak is -inf, and -inf - -inf would be NaN.
                    store_quad(s.peak + lane, peak[from] == T(-__builtin_inf()) ? T(0) : peak[from]);
                    store_quad(s.log_sum + lane, log_sum[from]);
                    store_quad(s.grad_log_sum + lane, grad_log_sum ? grad_log_sum[from] : T(0));
                }
        }
}

// Adds to the gradient (gx, gy) of a projected point: weights * the slope of `taps` at each cell. Lanes are summed
// later.
template <typename T, int kR>
VSAD_HD void add_slopes(Vector<T>& gx, Vector<T>& gy, const T* weights, const T* taps, T fx, T fy, Size<kR> size) {
    const auto vector = [](const T* from, int i) { return load(from + i * kLanes<T>); };
    for_each_cell<T>(
        size, [&](int i) { return mix(fy, vector(taps, i), vector(taps, i + size.quads())); },
        [&](int i, Vector<T> left, Vector<T> right) { gx += vector(weights, i) * (right - left); });
    for_each_cell<T>(
        size, [&](int i) { return vector(taps, i + size.quads()) - vector(taps, i); },
        [&](int i, Vector<T> left, Vector<T> right) { gy += vector(weights, i) * mix(fx, left, right); });
}

// The logarithms of the weights of a run's cells.
template <typename T, int kR>
VSAD_STEP void find_logits(const Item<T>& item, const BackwardScratch<T>& s, const Run& run, Size<kR> size) {
    constexpr int lanes = kLanes<T>;
    const T scale = T(item.a.scale);
    for (int i = 0; i < run.count; ++i) {
        const int window = run.window[i];
        const T fx = s.windows.fx[window], fy = s.windows.fy[window];
        const T* taps = s.key_taps + i * size.taps() * lanes;
        T* alpha = s.alpha + i * size.cells() * lanes;
        const bool full = s.windows.reach[window] == kFully;
        if (!full) valid_mask<T>(s.mask, s.windows.cells(window, item.a), size.R(), size.quads());
        const Vector<T> peak = load(s.peak + run.pixel[i] * lanes), log_sum = load(s.log_sum + run.pixel[i] * lanes);
        for_each_logit<T>(taps, fx, fy, scale, s.bias, full ? nullptr : s.mask, size,
                          [&](int j, Vector<T> logit) { store(alpha + j * lanes, (logit - peak) - log_sum); });
    }
}

// The gradients of a run's logits, and of the projected points. The weights of the taps take the place of the taps' dot
// products: gamma that of key_taps, beta that of value_taps.
template <typename T, int kR>
VSAD_STEP void differentiate(const Item<T>& item, const BackwardScratch<T>& s, const Run& run, Size<kR> size) {
    constexpr int lanes = kLanes<T>;
    const T scale = T(item.a.scale);
    for (int i = 0; i < run.count; ++i) {
        const int window = run.window[i];
        const T fx = s.windows.fx[window], fy = s.windows.fy[window];
        const T* alpha = s.alpha + i * size.cells() * lanes;
        T *key_taps = s.key_taps + i * size.taps() * lanes, *value_taps = s.value_taps + i * size.taps() * lanes;
        const std::int64_t pixel = run.pixel[i] * lanes;
        const Vector<T> grad_log_sum = load(s.grad_log_sum + pixel), inner = load(s.inner + pixel);
        for_each_cell<T>(
            size,
            [&](int j) { return mix(fy, load(value_taps + j * lanes), load(value_taps + (j + size.quads()) * lanes)); },
            [&](int j, Vector<T> left, Vector<T> right) {
                // The only cell with weight has value == inner: rounding must not give its logit, which changes
                // nothing, a gradient.
                const Vector<T> weight = load(alpha + j * lanes), value = mix(fx, left, right);
                const Vector<T> d = weight * (value - (weight == 1 ? value : inner) + grad_log_sum);
                store(s.grad_logit + j * lanes, scale * d);
                store(s.grad_bias + j * lanes, load(s.grad_bias + j * lanes) + d);
            });
        if (item.gradients.homography) {
            Vector<T> gx = {}, gy = {};
            add_slopes<T>(gx, gy, s.grad_logit, key_taps, fx, fy, size);
            add_slopes<T>(gx, gy, alpha, value_taps, fx, fy, size);
            s.gx[window] = sum_lanes<T>(gx) / item.plan.key.span;  // every quad of a head holds the same sums
            s.gy[window] = sum_lanes<T>(gy) / item.plan.key.span;
        }
        cells_to_taps<T>(key_taps, s.grad_logit, fx, fy, size);
        cells_to_taps<T>(value_taps, alpha, fx, fy, size);
    }
}

// All gradients of a part of a tile whose windows all lie in the packed box, into scratch memory.
template <typename T, int kR>
void backward_box(const Item<T>& item, const BackwardScratch<T>& s, Rectangle tile, Rectangle part, Rectangle box,
                  Prefetch& ahead) {
    const Channels<T>&key = item.plan.key, &value = item.plan.value;
    const Size<kR> size{item.plan.R};
    const Packed<const T> queries(s.query, 0, key), grads_out(s.grad_out, 0, value);
    const Packed<const T> keys(s.key_box, box.width, key), values(s.value_box, box.width, value);
    const Packed<T> grad_keys(s.grad_key_box, box.width, key), grad_values(s.grad_value_box, box.width, value);
    const Packed<T> grad_queries(s.grad_query, 0, key);
    for_each_run(s.windows, item.plan, tile, part, box, [&](const Run& run) {
        dot_taps<T>(s.key_taps, run, queries, keys, size, ahead);
        dot_taps<T>(s.value_taps, run, grads_out, values, size, ahead);
        find_logits<T>(item, s, run, size);
        exp_cells<T>(s.alpha, run.count * size.cells());
        differentiate<T>(item, s, run, size);
        add_taps<T>(grad_queries, nullptr, s.key_taps, run, keys, size, ahead);
        scatter_taps<T>(grad_keys, s.key_taps, run, queries, size, ahead);
        scatter_taps<T>(grad_values, s.value_taps, run, grads_out, size, ahead);
    });
}

// Adds a part's gradients of projected points to that of the homography.
template <typename T>
void flush_homography(const Item<T>& item, const BackwardScratch<T>& s, Rectangle tile, Rectangle part) {
    const AlignArguments& a = item.a;
    if (!item.gradients.homography) return;
    double* to =
        item.gradients.homography + (((item.batch * a.B + item.b) * a.V + item.edge.v) * a.N + item.edge.n) * 9;
    for (int y = part.y; y < part.y + part.height; ++y)
        for (int x = part.x; x < part.x + part.width; ++x) {
            const int at = y * item.plan.pitch() + x;
            if (s.windows.reach[at] == kNowhere) continue;
            const Projection<T> p{s.windows.x[at], s.windows.y[at], s.windows.Z[at]};
            add_outer_product(to, project_backward(p, double(s.gx[at]), double(s.gy[at])), T(tile.x + x),
                              T(tile.y + y));
        }
}

// Adds the item's gradients of logits to that of the bias.
template <typename T>
void flush_bias(const Item<T>& item, const BackwardScratch<T>& s) {
    const AlignArguments& a = item.a;
    const Channels<T>& key = item.plan.key;
    const int R = item.plan.R, quads = item.plan.quads;
    if (!item.gradients.bias) return;
    for (int h = 0; h < key.together; ++h) {
        const std::int64_t head = item.batch * key.together + h;
        double* to =
            item.gradients.bias + (((item.b * a.V + item.edge.v) * a.heads + head) * a.N + item.edge.n) * R * R;
        for (int row = 0; row < R; ++row)
            for (int col = 0; col < R; ++col)
                to[row * R + col] +=
                    double(s.grad_bias[(row * quads + col / 4) * kLanes<T> + h * key.span * 4 + col % 4]);
    }
}

template <typename T>
Plan<T> backward_plan(const AlignBackwardArguments& g) {
    return Plan<T>(g.forward, 2, 1, 2);
}

// Goes through the boxes that the tile's windows touch, and adds to the gradients of key, value and homography.
template <typename Element, int kR>
void backward_boxes(const Item<typename Compute<Element>::type>& item,
                    const BackwardScratch<typename Compute<Element>::type>& s, Rectangle tile, std::int64_t next_item) {
    using T = typename Compute<Element>::type;
    const AlignBackwardArguments& g = item.gradients;
    const AlignArguments& a = item.a;
    const Channels<T>&key = item.plan.key, &value = item.plan.value;
    const std::int64_t source = item.edge.s;
    T* grad_key = item.dense(g.key, a.S, source, a.Hs * a.Ws, key);
    T* grad_value = item.dense(g.value, a.S, source, a.Hs * a.Ws, value);
    for_each_box(s.windows, {0, 0, tile.width, tile.height}, item.plan, [&](Rectangle part, Rectangle box) {
        pack(s.key_box, plane<Element>(a.key, item.b, source, item.batch * key.batch_channels()), a.key, box, a.Ws,
             a.Hs, key, s.key_moves);
        pack(s.value_box, plane<Element>(a.value, item.b, source, item.batch * value.batch_channels()), a.value, box,
             a.Ws, a.Hs, value, s.value_moves);
        fill(s.grad_key_box, box.area() * std::int64_t(key.row()), T(0));
        fill(s.grad_value_box, box.area() * std::int64_t(value.row()), T(0));
        Prefetch ahead;
        ahead.add(grad_key, item.dense_image(key, a.Ws), box, a.Ws, a.Hs);
        ahead.add(grad_value, item.dense_image(value, a.Ws), box, a.Ws, a.Hs);
        if (part.x == 0 && part.y == 0) item.template look_ahead<Element>(ahead, next_item);
        ahead.spread(5 * part.area());
        backward_box<T, kR>(item, s, tile, part, box, ahead);
        item.source().wait();
        if (grad_key) add_box(grad_key, a.C, s.grad_key_box, box, a.Ws, a.Hs, key, s.key_moves);
        if (grad_value) add_box(grad_value, a.Cv, s.grad_value_box, box, a.Ws, a.Hs, value, s.value_moves);
        flush_homography(item, s, tile, part);
    });
}

template <typename Element, int kR>
void backward_item(const void* arguments, std::int64_t index, char* scratch) {
    using T = typename Compute<Element>::type;
    const AlignBackwardArguments& g = *static_cast<const AlignBackwardArguments*>(arguments);
    const AlignArguments& a = g.forward;
    const Plan<T> plan = backward_plan<T>(g);
    const Item<T> item(g, plan, index);
    const Rectangle tile = plan.tile(a, item.tile);
    Arena arena(scratch);
    const BackwardScratch<T> s(arena, plan);
    const Turn source_turn = item.source(), target_turn = item.target();
    if (!project_tile(s.windows, a, plan, item.homography(), tile)) {
        source_turn.pass();
        target_turn.pass();
        return;
    }
    plan.key.plan_moves(s.key_moves);
    plan.value.plan_moves(s.value_moves);
    load_bias(s.bias, a, plan, int(item.batch), item.edge.n);
    fill(s.grad_bias, plan.R * plan.quads * kLanes<T>, T(0));
    load_tile<T, Element>(item, s, tile);
    backward_boxes<Element, kR>(item, s, tile, index + plan.threads);
    source_turn.wait();
    flush_bias(item, s);
    source_turn.pass();
    T* grad_query = item.dense(g.query, a.V, item.edge.v, a.H * a.W, plan.key);
    target_turn.wait();
    if (grad_query) add_box(grad_query, a.C, s.grad_query, tile, a.W, a.H, plan.key, s.key_moves);
    target_turn.pass();
}

template <typename Element>
Work backward_work(const AlignBackwardArguments& g) {
    using T = typename Compute<Element>::type;
    const Plan<T> plan = backward_plan<T>(g);
    Arena arena(nullptr);
    BackwardScratch<T>(arena, plan);
    const std::int64_t items = plan.tiles(g.forward) * g.edge_count * g.forward.B * plan.key.batches;
    return {items, plan.threads, arena.used(), VSAD_BY_WINDOW(backward_item, Element, g.forward.window)};
}

}  // namespace

Work homography_align_backward(const AlignBackwardArguments& g) {
    return with_float_type(g.forward.dtype, [&](auto element) { return backward_work<decltype(element)>(g); });
}

}  // namespace VSAD_ISA
}  // namespace vsad
