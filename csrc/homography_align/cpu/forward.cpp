// The forward. A tile of target pixels goes through all slots with an online softmax; for each slot it packs the box of
// source pixels that its windows touch.
#include "homography_align/cpu/kernels.h"

#include "cpu/dispatch.h"
#include "homography_align/cpu/window.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

template <typename T>
struct ForwardScratch {
    T *query, *sum, *peak, *total;  // tile pixels, batch after batch; peak and total are one vector each
    T *key_box, *value_box;         // source pixels of one batch
    T* bias;                        // laid out as cells, batch after batch
    T *taps, *cells;                // pixels of a run; after a pixel's cells, one vector: the factor for its sum so far
    Mask<T>* mask;
    Move *key_moves, *value_moves;
    Windows<T> windows;

    ForwardScratch(Arena& arena, const Plan<T>& plan) : windows(arena, plan) {
        const std::int64_t pixels = plan.tile_pixels() * plan.key.batches, lanes = kLanes<T>;
        query = arena.take<T>(pixels * plan.key.row());
        sum = arena.take<T>(pixels * plan.value.row());
        peak = arena.take<T>(pixels * lanes);
        total = arena.take<T>(pixels * lanes);
        key_box = arena.take<T>(plan.box_pixels * plan.key.row());
        value_box = arena.take<T>(plan.box_pixels * plan.value.row());
        bias = arena.take<T>(plan.key.batches * plan.side * plan.quads * lanes);
        taps = arena.take<T>(kRun * plan.side * plan.quads * lanes);
        cells = arena.take<T>(kRun * (plan.R * plan.quads + 1) * lanes);
        mask = arena.take<Mask<T>>(plan.side * plan.quads);
        key_moves = arena.take<Move>(plan.key.moves);
        value_moves = arena.take<Move>(plan.value.moves);
    }
};

// The logits of a run's cells minus their new peak, and after them the old peak minus the new one.
template <typename T, int kR>
VSAD_STEP void find_logits(const ForwardScratch<T>& s, const AlignArguments& a, const Run& run, const T* bias,
                           std::int64_t first_pixel, Size<kR> size, Prefetch& ahead) {
    constexpr int lanes = kLanes<T>;
    const T scale = T(a.scale), minus_infinity = T(-__builtin_inf());
    for (int i = 0; i < run.count; ++i) {
        ahead.step();
        const int window = run.window[i];
        const T fx = s.windows.fx[window], fy = s.windows.fy[window];
        const T* taps = s.taps + i * size.taps() * lanes;
        T *cells = s.cells + i * (size.cells() + 1) * lanes, *peak = s.peak + (first_pixel + run.pixel[i]) * lanes;
        const bool full = s.windows.reach[window] == kFully;
        if (!full) valid_mask<T>(s.mask, s.windows.cells(window, a), size.R(), size.quads());

        Vector<T> logits[Size<kR>::kTaps];
        const Vector<T> old_peak = load(peak);
        Vector<T> highest = old_peak;
        for_each_logit<T>(taps, fx, fy, scale, bias, full ? nullptr : s.mask, size, [&](int j, Vector<T> logit) {
            highest = logit > highest ? logit : highest;
            if (kR)
                logits[j] = logit;
            else
                store(cells + j * lanes, logit);
        });
        const Vector<T> new_peak = greatest_in_quads<T>(highest);
        // While nothing is valid the shift is 0, since exp(-inf - 0) = 0.
        const Vector<T> shift = new_peak == minus_infinity ? Vector<T>{} : new_peak;
        store(peak, new_peak);
        for (int j = 0; j < size.cells(); ++j)
            store(cells + j * lanes, (kR ? logits[j] : load(cells + j * lanes)) - shift);
        store(cells + size.cells() * lanes, old_peak - shift);
    }
}

// Adds the weights of a run's cells to the totals and spreads them to the taps.
template <typename T, int kR>
VSAD_STEP void spread_weights(const ForwardScratch<T>& s, const Run& run, std::int64_t first_pixel, Size<kR> size) {
    constexpr int lanes = kLanes<T>;
    for (int i = 0; i < run.count; ++i) {
        const int window = run.window[i];
        const T* cells = s.cells + i * (size.cells() + 1) * lanes;
        T* total = s.total + (first_pixel + run.pixel[i]) * lanes;
        Vector<T> sum = load(total) * load(cells + size.cells() * lanes);
        for (int j = 0; j < size.cells(); ++j) sum += load(cells + j * lanes);
        store(total, sum);
        cells_to_taps<T>(s.taps + i * size.taps() * lanes, cells, s.windows.fx[window], s.windows.fy[window], size);
    }
}

// One slot and one batch of heads, for a part of a tile whose windows all lie in the packed box.
template <typename T, int kR>
void attend_box(const ForwardScratch<T>& s, const AlignArguments& a, const Plan<T>& plan, int batch, Rectangle tile,
                Rectangle part, Rectangle box, Prefetch& ahead) {
    const Size<kR> size{plan.R};
    const std::int64_t first_pixel = std::int64_t(batch) * tile.area();
    const Packed<const T> queries(s.query + first_pixel * plan.key.row(), 0, plan.key);
    const Packed<T> sums(s.sum + first_pixel * plan.value.row(), 0, plan.value);
    const Packed<const T> keys(s.key_box, box.width, plan.key), values(s.value_box, box.width, plan.value);
    const T* bias = s.bias + batch * size.taps() * kLanes<T>;
    for_each_run(s.windows, plan, tile, part, box, [&](const Run& run) {
        dot_taps<T>(s.taps, run, queries, keys, size, ahead);
        find_logits<T>(s, a, run, bias, first_pixel, size, ahead);
        exp_cells<T>(s.cells, run.count * (size.cells() + 1));
        spread_weights<T>(s, run, first_pixel, size);
        add_taps<T>(sums, s.cells + size.cells() * kLanes<T>, s.taps, run, values, size, ahead);
    });
}

// Writes out = sum / total, the peak and log(total); 0, -inf and 0 where nothing was valid.
template <typename T, typename Element>
void write_tile(const AlignArguments& a, const ForwardScratch<T>& s, const Plan<T>& plan, std::int64_t b,
                std::int64_t v, Rectangle tile) {
    const Channels<T>& value = plan.value;
    const std::int64_t view = (b * a.V + v) * a.heads;
    for (int batch = 0; batch < value.batches; ++batch)
        for (int y = 0; y < tile.height; ++y) {
            const std::int64_t first = std::int64_t(batch) * tile.area() + y * tile.width;
            T *peaks = s.peak + first * kLanes<T>, *totals = s.total + first * kLanes<T>;
            for (int x = 0; x < tile.width; ++x) {
                const Vector<T> total = sum_in_quads<T>(load(totals + x * kLanes<T>));
                const Vector<T> inverse = total == 0 ? Vector<T>{} : 1 / total;
                if (a.peak) store(totals + x * kLanes<T>, total == 0 ? Vector<T>{} : log_of_positive(total));
                T* sum = s.sum + (first + x) * value.row();
                for (int c = 0; c < value.row(); c += kLanes<T>) store(sum + c, load(sum + c) * inverse);
            }
            for (int h = 0; h < value.together && a.peak; ++h) {
                const std::int64_t row = (view + batch * value.together + h) * a.H + tile.y + y;
                T* peak = static_cast<T*>(a.peak) + row * a.W + tile.x;
                T* log_sum = static_cast<T*>(a.log_sum) + row * a.W + tile.x;
                for (int x = 0, lane = h * value.span * 4; x < tile.width; ++x, lane += kLanes<T>) {
                    peak[x] = peaks[lane];
                    log_sum[x] = totals[lane];
                }
            }
            Element* out = const_cast<Element*>(plane<Element>(a.out, b, v, batch * value.batch_channels()));
            unpack_row<T>(out + (tile.y + y) * a.out.y + tile.x * a.out.x, a.out, s.sum + first * value.row(),
                          tile.width, value, s.value_moves);
        }
}

template <typename T>
Plan<T> forward_plan(const AlignArguments& a) {
    return Plan<T>(a, 1, Channels<T>(a.heads, 1).batches, 1);
}

// One item is up to kTiles tiles of a view beside each other: what their boxes share stays in the cache.
constexpr std::int64_t kTiles = 4;

template <typename T>
struct Item {
    const AlignArguments& a;
    Plan<T> plan;
    std::int64_t b, v, row, first, last;

    Item(const AlignArguments& a, std::int64_t item) : a(a), plan(forward_plan<T>(a)) {
        const std::int64_t across = (plan.tiles_across(a) + kTiles - 1) / kTiles;
        const std::int64_t rows = plan.tiles(a) / plan.tiles_across(a);
        first = item % across * kTiles;
        last = lesser(first + kTiles, plan.tiles_across(a));
        row = item / across % rows;
        v = item / across / rows % a.V;
        b = item / across / rows / a.V;
    }
    Rectangle tile(std::int64_t t) const { return plan.tile(a, row * plan.tiles_across(a) + t); }
    std::int64_t source(std::int64_t n) const { return a.neighbors[v * a.N + n]; }
    const T* homography(std::int64_t n) const {
        return static_cast<const T*>(a.homography) + b * a.homography_batch + (v * a.N + n) * 9;
    }
};

// Prefetches what comes after slot n of tile t: the next slot's box, or the next tile's query and first box.
template <typename T, typename Element>
Prefetch look_ahead(const Item<T>& item, std::int64_t t, std::int64_t n) {
    const AlignArguments& a = item.a;
    Prefetch ahead;
    do {
        if (++n < a.N) continue;
        n = 0;
        ahead.add(plane<Element>(a.out, item.b, item.v, 0), a.out, item.tile(t), a.W, a.H);
        if (++t == item.last) break;
        ahead.add(plane<Element>(a.query, item.b, item.v, 0), a.query, item.tile(t), a.W, a.H);
    } while (item.source(n) < 0 && n + 1 < a.N);
    if (t < item.last && item.source(n) >= 0) {
        const Rectangle box = guess_box(a, item.plan, item.homography(n), item.tile(t));
        ahead.add(plane<Element>(a.key, item.b, item.source(n), 0), a.key, box, a.Ws, a.Hs);
        ahead.add(plane<Element>(a.value, item.b, item.source(n), 0), a.value, box, a.Ws, a.Hs);
    }
    ahead.spread(3 * item.plan.key.batches * item.tile(0).area());
    return ahead;
}

template <typename Element, int kR>
void forward_tile(const Item<typename Compute<Element>::type>& item,
                  const ForwardScratch<typename Compute<Element>::type>& s, std::int64_t t) {
    using T = typename Compute<Element>::type;
    const AlignArguments& a = item.a;
    const Channels<T>&key = item.plan.key, &value = item.plan.value;
    const Rectangle tile = item.tile(t);
    fill(s.sum, value.batches * tile.area() * std::int64_t(value.row()), T(0));
    fill(s.peak, key.batches * tile.area() * kLanes<T>, T(-__builtin_inf()));
    fill(s.total, key.batches * tile.area() * kLanes<T>, T(0));
    for (int batch = 0; batch < key.batches; ++batch)
        pack(s.query + batch * tile.area() * std::int64_t(key.row()),
             plane<Element>(a.query, item.b, item.v, batch * key.batch_channels()), a.query, tile, a.W, a.H, key,
             s.key_moves);
    for (std::int64_t n = 0; n < a.N; ++n) {
        const std::int64_t source = item.source(n);
        if (source < 0 || !project_tile(s.windows, a, item.plan, item.homography(n), tile)) continue;
        for (int batch = 0; batch < key.batches; ++batch)
            load_bias(s.bias + batch * item.plan.side * item.plan.quads * kLanes<T>, a, item.plan, batch, n);
        Prefetch ahead = look_ahead<T, Element>(item, t, n);
        for_each_box(s.windows, {0, 0, tile.width, tile.height}, item.plan, [&](Rectangle part, Rectangle box) {
            for (int batch = 0; batch < key.batches; ++batch) {
                pack(s.key_box, plane<Element>(a.key, item.b, source, batch * key.batch_channels()), a.key, box, a.Ws,
                     a.Hs, key, s.key_moves);
                pack(s.value_box, plane<Element>(a.value, item.b, source, batch * value.batch_channels()), a.value, box,
                     a.Ws, a.Hs, value, s.value_moves);
                attend_box<T, kR>(s, a, item.plan, batch, tile, part, box, ahead);
            }
        });
    }
    if (a.out_dtype == a.dtype)
        write_tile<T, Element>(a, s, item.plan, item.b, item.v, tile);
    else
        write_tile<T, T>(a, s, item.plan, item.b, item.v, tile);
}

template <typename Element, int kR>
void forward_item(const void* arguments, std::int64_t index, char* scratch) {
    using T = typename Compute<Element>::type;
    const Item<T> item(*static_cast<const AlignArguments*>(arguments), index);
    Arena arena(scratch);
    const ForwardScratch<T> s(arena, item.plan);
    item.plan.key.plan_moves(s.key_moves);
    item.plan.value.plan_moves(s.value_moves);
    for (std::int64_t t = item.first; t < item.last; ++t) forward_tile<Element, kR>(item, s, t);
}

template <typename Element>
Work forward_work(const AlignArguments& a) {
    using T = typename Compute<Element>::type;
    const Plan<T> plan = forward_plan<T>(a);
    Arena arena(nullptr);
    ForwardScratch<T>(arena, plan);
    const std::int64_t across = plan.tiles_across(a), items = (across + kTiles - 1) / kTiles;
    return {a.B * a.V * (plan.tiles(a) / greater<std::int64_t>(1, across)) * items, plan.threads, arena.used(),
            VSAD_BY_WINDOW(forward_item, Element, a.window)};
}

}  // namespace

Work homography_align_forward(const AlignArguments& a) {
    return with_float_type(a.dtype, [&](auto element) { return forward_work<decltype(element)>(a); });
}

}  // namespace VSAD_ISA
}  // namespace vsad
