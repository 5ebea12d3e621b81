// The forward where every homography is a translation by integers, the identity included: samples of a camera that does
// not move. Window cells lie on the centers of source pixels. So R^2 taps serve and not (R + 1)^2, none is mixed, and
// lanes are neighboring pixels, which share everything but their data: no sums across lanes. Few channels of
// one head; then the softmax is most of the work.
#include "homography_align/cpu/kernels.h"

#include "cpu/dispatch.h"
#include "homography_align/cpu/planes.h"
#include "homography_align/cpu/window.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr int kMostWidth = 64, kMostHeight = 16;  // of a tile of target pixels
constexpr std::int64_t kMostChannels = 80;        // of key and value together; with more, the other forward is as fast

template <typename T>
const T* homography_of(const AlignArguments& a, std::int64_t b, std::int64_t v, std::int64_t n) {
    return static_cast<const T*>(a.homography) + b * a.homography_batch + (v * a.N + n) * 9;
}

// Whether all pixels land on pixels, equally far from them, in the arithmetic that coordinates are computed in. The
// zeros make x depend on x alone, and y on y.
template <typename T>
bool is_translation(const T* H, std::int64_t width, std::int64_t height) {
    if (!(H[1] == 0 && H[3] == 0 && H[6] == 0 && H[7] == 0)) return false;
    const Projection<T> origin = project(H, T(0), T(0));
    const auto near_integer = [](T x) { return x > -kFar && x < kFar && x == round_down(x); };
    if (!(origin.Z > 0 && near_integer(origin.x) && near_integer(origin.y))) return false;
    for (std::int64_t x = 1; x < width; ++x)
        if (project(H, T(x), T(0)).x != origin.x + T(x)) return false;
    for (std::int64_t y = 1; y < height; ++y)
        if (project(H, T(0), T(y)).y != origin.y + T(y)) return false;
    return true;
}

template <typename T>
bool all_translations(const AlignArguments& a) {
    for (std::int64_t b = 0; b < (a.homography_batch ? a.B : lesser<std::int64_t>(a.B, 1)); ++b)
        for (std::int64_t v = 0; v < a.V; ++v)
            for (std::int64_t n = 0; n < a.N; ++n) {
                if (a.neighbors[v * a.N + n] >= 0 && !is_translation(homography_of<T>(a, b, v, n), a.W, a.H))
                    return false;
            }
    return true;
}

// So many rows of pixels share the loads of keys, where their sums fit the registers: AVX2 has 16. Four of them, which
// fit those of AVX-512, are no faster.
constexpr int kMostRows = 2;
template <int kR>
constexpr int kRows = kR <= 5 ? kMostRows : 1;

// Tiles, and the planes of one.
template <typename T>
struct TranslationPlan {
    int R, across, down, width, height;  // tiles across and down; a tile's size, all lanes and groups of rows filled
    Planes query, sum;
    Ring key, value;
    std::int64_t threads;

    explicit TranslationPlan(const AlignArguments& a) : R(a.window) {
        const int C = int(a.C), Cv = int(a.Cv);
        int most_width = kMostWidth, most_height = kMostHeight;
        for (;; (most_width < 2 * most_height ? most_height : most_width) /= 2) {
            across = int((a.W + most_width - 1) / most_width);
            down = int((a.H + most_height - 1) / most_height);
            width = round_up<T>(int((a.W + across - 1) / greater(1, across)));
            height = int((a.H + down - 1) / greater(1, down) + kMostRows - 1) / kMostRows * kMostRows;
            query = {C, height, width};
            sum = {Cv, height, width};
            key = {C, kMostRows + R, round_up<T>(width + R)};
            value = {Cv, key.rows, key.pitch};
            const std::int64_t bytes =
                (query.size() + sum.size() + key.size() + value.size()) * std::int64_t(sizeof(T));
            threads = greater<std::int64_t>(
                1, lesser<std::int64_t>(a.threads, kScratchBytes / greater<std::int64_t>(1, bytes)));
            if (bytes <= kThreadBytes || (most_width <= kLanes<T> && most_height <= kMostRows)) return;
        }
    }
};

template <typename T>
struct TranslationScratch {
    T *query, *sum;   // planes
    T *key, *value;   // rings
    T *peak, *total;  // rows of the tile
    T* bias;          // of one slot
    T* cells;  // of one vector of pixels in each row of a group; after a row's cells, the factor for its sum so far

    TranslationScratch(Arena& arena, const TranslationPlan<T>& plan) {
        query = arena.take<T>(plan.query.size());
        sum = arena.take<T>(plan.sum.size());
        key = arena.take<T>(plan.key.size());
        value = arena.take<T>(plan.value.size());
        peak = arena.take<T>(plan.query.plane());
        total = arena.take<T>(plan.query.plane());
        bias = arena.take<T>(plan.R * plan.R);
        cells = arena.take<T>(kMostRows * (plan.R * plan.R + 1) * kLanes<T>);
    }
};

// The logits of row `a` of the keys, for those rows of a group of pixels whose windows it belongs to.
template <typename T, int kR, int a>
VSAD_HD void dot_row(T* cells, const T* query, const Planes& queries, const T* key, const Ring& keys, const T* bias,
                     T scale) {
    constexpr int first = greater(0, a - kR + 1), rows = lesser(a, kRows<kR> - 1) + 1 - first;
    Vector<T> sums[rows][kR] = {};
    query += first * queries.pitch;
    for (int c = 0; c < keys.channels; ++c, query += queries.plane(), key += keys.pitch) {
        VSAD_UNROLL(8)
        for (int b = 0; b < kR; ++b) {
            const Vector<T> k = rounded(load(key + b));  // loaded once, where the compiler would load it for every row
            for (int i = 0; i < rows; ++i) sums[i][b] += load(query + i * queries.pitch) * k;
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int b = 0; b < kR; ++b) {
            const int cell = (a - first - i) * kR + b;
            store(cells + ((first + i) * (kR * kR + 1) + cell) * kLanes<T>, scale * sums[i][b] + bias[cell]);
        }
}

// The logits of a vector of pixels in each row of a group, of all `rows` of keys from column x on.
template <typename T, int kR, int... a>
VSAD_STEP void dot_cells(T* cells, const T* query, const Planes& queries, const T* const* rows, int x, const Ring& keys,
                         const T* bias, T scale, std::integer_sequence<int, a...>) {
    (dot_row<T, kR, a>(cells, query, queries, rows[a] + x, keys, bias, scale), ...);
}

// Gives the logit -inf to the cells beyond the border, of pixels whose windows begin at the source pixel (x, y).
template <typename T>
void mask_border(T* cells, const AlignArguments& a, int x, int y) {
    const int R = a.window;
    for (int row = 0; row < R; ++row)
        for (int col = 0; col < R; ++col) {
            const Vector<T> at = lane_numbers<T>() + T(x + col);
            const bool in_rows = y + row >= 0 && y + row < a.Hs;
            T* cell = cells + (row * R + col) * kLanes<T>;
            store(cell, (at >= 0) & (at < T(a.Ws)) & (broadcast(T(in_rows)) > 0) ? load(cell)
                                                                                 : broadcast(T(-__builtin_inf())));
        }
}

// Turns the logits of a vector of pixels into weights, and adds these to the total.
template <typename T, int kR>
VSAD_STEP void weigh_cells(T* cells, T* peak, T* total) {
    constexpr int lanes = kLanes<T>, count = kR * kR;
    const Vector<T> old_peak = load(peak);
    Vector<T> highest = old_peak;
    for (int j = 0; j < count; ++j) {
        const Vector<T> logit = load(cells + j * lanes);
        highest = logit > highest ? logit : highest;
    }
    // While nothing is valid the shift is 0, since exp(-inf - 0) = 0.
    const Vector<T> shift = highest == T(-__builtin_inf()) ? Vector<T>{} : highest;
    store(peak, highest);
    Vector<T> sum = {};
    constexpr int together = 4;
    static_assert(count % together == 1, "the square of an odd number");
    for (int j = 0; j < count - 1; j += together) {
        Vector<T> x[together];
        for (int i = 0; i < together; ++i) x[i] = load(cells + (j + i) * lanes) - shift;
        exp_of_nonpositive(x);
        for (int i = 0; i < together; ++i) store(cells + (j + i) * lanes, x[i]);
        sum += (x[0] + x[1]) + (x[2] + x[3]);
    }
    T* last = cells + (count - 1) * lanes;
    Vector<T> x[2] = {load(last) - shift, old_peak - shift};
    exp_of_nonpositive(x);
    for (int i = 0; i < 2; ++i) store(last + i * lanes, x[i]);
    sum += x[0] + load(total) * x[1];
    store(total, sum);
}

// sums = factor * sums + the weighted values of a vector of pixels.
template <typename T, int kR>
VSAD_STEP void add_values(T* sums, const Planes& tile, const T* cells, const T* const* rows, int x,
                          const Ring& values) {
    constexpr int lanes = kLanes<T>;
    for (int c = 0; c < values.channels; ++c, sums += tile.plane(), x += values.pitch) {
        Vector<T> columns[kR] = {};  // apart, to hide the latency of additions
        columns[0] = load(sums) * load(cells + kR * kR * lanes);
        for (int a = 0; a < kR; ++a)
            for (int b = 0; b < kR; ++b) columns[b] += load(cells + (a * kR + b) * lanes) * load(rows[a] + x + b);
        for (int b = 1; b < kR; ++b) columns[0] += columns[b];
        store(sums, columns[0]);
    }
}

// Whether some of `count` pixels from `from` on lie in an image of that size.
inline bool overlap(int from, int count, std::int64_t size) { return from < size && from + count > 0; }

// One slot, for a tile whose windows begin at the source pixel (box.x, box.y).
template <typename Element, typename T, int kR>
void attend(const TranslationScratch<T>& s, const AlignArguments& a, const TranslationPlan<T>& plan, Rectangle box,
            BoxRows<T, Element> keys, BoxRows<T, Element> values) {
    constexpr int kGroup = kRows<kR>, kKeys = kGroup + kR - 1;
    for (int y = 0; y < plan.height; y += kGroup) {
        if (!overlap(box.y + y, kKeys, a.Hs)) continue;
        keys.reach(y + kKeys);
        if (s.value != s.key) values.reach(y + kKeys);
        const T *key_rows[kKeys], *value_rows[kKeys];
        for (int row = 0; row < kKeys; ++row) {
            key_rows[row] = s.key + plan.key.row(y + row);
            value_rows[row] = s.value == s.key ? key_rows[row] : s.value + plan.value.row(y + row);
        }
        for (int x = 0; x < plan.width; x += kLanes<T>) {
            const int left = box.x + x;
            if (!overlap(left, kR + kLanes<T> - 1, a.Ws)) continue;
            const std::int64_t at = y * plan.query.pitch + x;
            dot_cells<T, kR>(s.cells, s.query + at, plan.query, key_rows, x, plan.key, s.bias, T(a.scale),
                             std::make_integer_sequence<int, kKeys>{});
            for (int i = 0; i < kGroup; ++i) {
                T* cells = s.cells + i * (kR * kR + 1) * kLanes<T>;
                const int top = box.y + y + i;
                const std::int64_t row = at + i * plan.query.pitch;
                if (left < 0 || left + kLanes<T> + kR - 1 > a.Ws || top < 0 || top + kR > a.Hs)
                    mask_border(cells, a, left, top);
                weigh_cells<T, kR>(cells, s.peak + row, s.total + row);
                add_values<T, kR>(s.sum + row, plan.sum, cells, value_rows + i, x, plan.value);
            }
        }
    }
}

template <typename T, typename Element>
void write_rows(const AlignArguments& a, const TranslationScratch<T>& s, const TranslationPlan<T>& plan, std::int64_t b,
                std::int64_t v, Rectangle tile) {
    for (int y = 0; y < tile.height; ++y) {
        const std::int64_t first = y * plan.query.pitch;
        for (int x = 0; x < plan.width; x += kLanes<T>) {
            const Vector<T> total = load(s.total + first + x);
            const Vector<T> inverse = total == 0 ? Vector<T>{} : 1 / total;
            if (a.peak) store(s.total + first + x, total == 0 ? Vector<T>{} : log_of_positive(total));
            for (int c = 0; c < plan.sum.channels; ++c) {
                T* sum = s.sum + c * plan.sum.plane() + first + x;
                store(sum, load(sum) * inverse);
            }
        }
        const std::int64_t row = ((b * a.V + v) * a.H + tile.y + y) * a.W + tile.x;
        if (a.peak) {
            __builtin_memcpy(static_cast<T*>(a.peak) + row, s.peak + first, tile.width * sizeof(T));
            __builtin_memcpy(static_cast<T*>(a.log_sum) + row, s.total + first, tile.width * sizeof(T));
        }
        Element* out = const_cast<Element*>(plane<Element>(a.out, b, v, 0));
        planes_to_row(out + (tile.y + y) * a.out.y + tile.x * a.out.x, a.out, s.sum + first, plan.sum.plane(),
                      tile.width, plan.sum.channels);
    }
}

// The place of an item, which is one tile of a view.
template <typename Element>
struct TranslationItem {
    using T = typename Compute<Element>::type;
    const AlignArguments& a;
    const TranslationPlan<T> plan;
    std::int64_t b, v;
    Rectangle tile;

    TranslationItem(const AlignArguments& a, std::int64_t index) : a(a), plan(a) {
        const std::int64_t tiles = plan.across * plan.down, t = index % tiles;
        v = index / tiles % a.V;
        b = index / tiles / a.V;
        const int x = int(t % plan.across) * plan.width, y = int(t / plan.across) * plan.height;
        tile = {x, y, int(lesser<std::int64_t>(plan.width, a.W - x)), int(lesser<std::int64_t>(plan.height, a.H - y))};
    }
    std::int64_t source(std::int64_t n) const { return a.neighbors[v * a.N + n]; }
    const Element* query() const { return plane<Element>(a.query, b, v, 0); }
    const Element* key(std::int64_t n) const { return plane<Element>(a.key, b, source(n), 0); }
    const Element* value(std::int64_t n) const { return plane<Element>(a.value, b, source(n), 0); }
    // The source pixels that the tile's windows touch.
    Rectangle box(std::int64_t n) const {
        const Projection<T> origin = project(homography_of<T>(a, b, v, n), T(0), T(0));
        const int radius = plan.R / 2;
        return {tile.x + int(origin.x) - radius, tile.y + int(origin.y) - radius, plan.width + plan.R - 1,
                plan.height + plan.R - 1};
    }
};

// Whether the channels of the value are the first ones of the key, as where only the sum of the softmax is wanted.
bool value_is_key(const AlignArguments& a) {
    const Image &key = a.key, &value = a.value;
    return key.data == value.data && key.batch == value.batch && key.view == value.view &&
           key.channel == value.channel && key.y == value.y && key.x == value.x && a.Cv <= a.C;
}

template <typename Element, int kR>
void translation_item(const void* arguments, std::int64_t index, char* scratch) {
    using T = typename Compute<Element>::type;
    const TranslationItem<Element> item(*static_cast<const AlignArguments*>(arguments), index);
    const AlignArguments& a = item.a;
    const TranslationPlan<T>& plan = item.plan;
    const Rectangle tile = item.tile;
    if (tile.width <= 0 || tile.height <= 0) return;
    Arena arena(scratch);
    TranslationScratch<T> s(arena, plan);
    if (value_is_key(a)) s.value = s.key;
    fill(s.sum, plan.sum.size(), T(0));
    fill(s.peak, plan.query.plane(), T(-__builtin_inf()));
    fill(s.total, plan.query.plane(), T(0));
    fill(s.query, plan.query.size(), T(0));
    for (int row = 0; row < tile.height; ++row)
        row_to_planes(s.query + row * plan.query.pitch, plan.query.plane(),
                      item.query() + (tile.y + row) * a.query.y + tile.x * a.query.x, a.query, tile.width,
                      plan.query.channels);
    Rectangle before = {};
    for (std::int64_t n = 0; n < a.N; ++n) {
        if (item.source(n) < 0) continue;
        const Rectangle box = item.box(n);
        if (!overlap(box.x, box.width, a.Ws) || !overlap(box.y, box.height, a.Hs)) continue;
        const T* bias = static_cast<const T*>(a.bias) + n * kR * kR;
        for (int j = 0; j < kR * kR; ++j) s.bias[j] = a.bias ? bias[j] : T(0);
        const bool zeros = before.width > 0 && box.x == before.x;
        before = box;
        attend<Element, T, kR>(
            s, a, plan, box, {s.key, plan.key, item.key(n), a.key, box, a.Ws, a.Hs, zeros},
            {s.value, plan.value, item.value(n), a.value, box, a.Ws, a.Hs, zeros || s.value == s.key});
    }
    if (a.out_dtype == a.dtype)
        write_rows<T, Element>(a, s, plan, item.b, item.v, tile);
    else
        write_rows<T, T>(a, s, plan, item.b, item.v, tile);
}

template <typename Element>
Work translation_work(const AlignArguments& a) {
    using T = typename Compute<Element>::type;
    const TranslationPlan<T> plan(a);
    Arena arena(nullptr);
    TranslationScratch<T>(arena, plan);
    const auto run = a.window == 1   ? &translation_item<Element, 1>
                     : a.window == 3 ? &translation_item<Element, 3>
                     : a.window == 5 ? &translation_item<Element, 5>
                                     : &translation_item<Element, 7>;
    return {a.B * a.V * plan.across * plan.down, plan.threads, arena.used(), run};
}

}  // namespace

bool homography_align_translates(const AlignArguments& a) {
    if (a.heads != 1 || a.C + a.Cv > kMostChannels) return false;
    if (a.window != 1 && a.window != 3 && a.window != 5 && a.window != 7) return false;
    return a.dtype == Scalar::float64 ? all_translations<double>(a) : all_translations<float>(a);
}

Work homography_align_translation(const AlignArguments& a) {
    return with_float_type(a.dtype, [&](auto element) { return translation_work<decltype(element)>(a); });
}

}  // namespace VSAD_ISA
}  // namespace vsad
