// Exact nearest prototypes at the speed of an int8 matrix product.
//
// Features and prototypes are taken relative to the bank's center and quantized to int8 (or kept in float32 where the
// processor has no fast int8 product). Their distances D cost little, and by the triangle inequality the true distance
// is D +- (|f - quantized f| + |p - quantized p|). For every block of prototypes only the smallest D is kept. The k-th
// smallest upper bound, `reach`, holds for the k-th nearest prototype; a block whose lower bound is beyond it certainly
// holds none of the k nearest. The other blocks are candidates, which are re-ranked row by row: what may be near is
// measured by direct difference. So the answer is brute force's, bit for bit, however wide the bounds are: a feature
// with bounds too wide to exclude much is screened again in float32, and finally measured against every prototype.
#include "prototype_distance/cpu/rerank.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kPanelBytes = 1 << 18;  // bytes of features: half of a small second-level cache
constexpr std::int64_t kMostRows = 768;

// The features of a pass: the rows `ids` of the tile.
struct Pass {
    const std::int64_t* ids;
    std::int64_t count;
    bool in_int8;
};

// The part of the bank that an item screens: blocks [begin, end); the last split also has the prototypes in no block.
struct Split {
    std::int64_t begin, end;
    bool last;
};

// Loads the features of a pass; returns their number without those that cannot be screened.
template <typename Element>
std::int64_t load_features(Screen<Element>& s, const Pass& pass) {
    const DistanceArguments& a = s.a;
    std::int64_t loaded = 0;
    for (std::int64_t n = 0; n < pass.count; ++n) {
        load_row<Element>(s.row, a.features, s.first + pass.ids[n], a.C, a.metric);
        center_row(s.centered, s.row, a.bank.center, a.C);
        const double squared = squared_length(s.centered, pad_row(a.C));
        if (!(squared < kHuge) || (a.metric == Metric::cosine && is_zero(s.row, pad_row(a.C)))) {
            s.give_up(pass.ids[n]);
            continue;
        }
        s.id[loaded] = pass.ids[n];
        pass.in_int8 ? s.add_int8(loaded, squared) : s.add_float32(loaded, squared);
        ++loaded;
    }
    const std::int64_t group = pass.in_int8 ? kInt8Group : kFloatGroup;
    for (s.padded_rows = loaded; s.padded_rows % group; ++s.padded_rows) s.add_padding(s.padded_rows, pass.in_int8);
    s.rows = loaded;
    return loaded;
}

// Returns false, its minima unfinished, where the call is abandoned.
template <typename Element>
bool screen_blocks(Screen<Element>& s, std::int64_t begin, std::int64_t end, Patience& patience) {
    const DistanceArguments& a = s.a;
    if (s.in_int8) {
        const Int8Screen screen{a.bank.int8, begin, end, s.steps, s.panels_int8, s.scale, s.padded_rows, s.minima};
        a.int8->minima(screen);
        return !patience.ends();
    } else {
        for (std::int64_t block = begin; block < end; ++block) {
            if (patience.ends()) return false;
            pack_panel<Element>(a, s.panel, s.tile, s.row, block);
            s.feature_in_use = -1;  // s.row is overwritten
            float_minima(s.minima + (block - begin) * s.padded_rows, s.panels, s.padded_rows, s.panel,
                         a.bank.offset + block * kBlock, a.C);
        }
        return true;
    }
}

// Screens the features of a pass, which belong to the tile from feature `first` on, and re-ranks their candidates. The
// features it gives up on are appended to s.given_up. An abandoned call leaves it early.
template <typename Element>
void screen(Screen<Element>& s, const Pass& pass, const Split& split, std::int64_t first) {
    const DistanceArguments& a = s.a;
    s.start(pass.in_int8, first, split.end - split.begin);
    if (!load_features(s, pass)) return;
    Patience patience((pass.in_int8 ? kChunk : 1) * kBlock * s.padded_rows * a.C);
    for (std::int64_t block = split.begin; block < split.end; block += kChunk) {
        const std::int64_t stop = lesser(split.end, block + kChunk);
        if (!screen_blocks(s, block, stop, patience)) return;
        find_candidates(s, block, stop);
    }
    s.rerank_all(split.begin, split.end);
}

// Screens all `count` features of a tile in int8, if the processor can, and in float32 those that int8 gave up on.
template <typename Element>
void screen_tile(Screen<Element>& s, const Split& split, std::int64_t first, std::int64_t count) {
    std::int64_t* ids = s.ids[0];
    for (std::int64_t i = 0; i < count; ++i) ids[i] = i;
    std::int64_t left = count;
    if (s.a.int8) {
        screen(s, {ids, count, true}, split, first);
        left = s.given_up_count;
        ids = s.ids[1];
        __builtin_memcpy(ids, s.given_up, left * sizeof *ids);
        s.given_up_count = 0;
    }
    for (std::int64_t n = 0; n < left; n += s.float_rows)
        screen(s, {ids + n, lesser(left - n, s.float_rows), false}, split, first);
}

// Measures the features that screening gave up on against everything, a few at a time.
template <typename Element>
void measure_given_up(Screen<Element>& s, const Split& split, std::int64_t first) {
    const DistanceArguments& a = s.a;
    const std::int64_t padded = pad_row(a.C);
    const std::int64_t stop = split.last ? a.P : lesser(split.end * kBlock, a.bank.count[regular]);
    const auto index = [&](std::int64_t p) { return std::int64_t(a.bank.index[p]); };
    for (std::int64_t n = 0; n < s.given_up_count; n += kBruteForceRows) {
        const std::int64_t rows = lesser(kBruteForceRows, s.given_up_count - n);
        for (std::int64_t i = 0; i < rows; ++i) {
            const std::int64_t row = s.given_up[n + i];
            load_row<Element>(s.brute_force_rows + i * padded, a.features, first + row, a.C, a.metric);
            s.brute_force_nearest[i] = s.nearest[row];
            s.brute_force_nearest[i].clear();
        }
        measure_all<Element>(a, s.brute_force_tile, split.begin * kBlock, stop, index, s.brute_force_rows, rows,
                             s.brute_force_nearest);
        for (std::int64_t i = 0; i < rows; ++i) {
            s.nearest[s.given_up[n + i]] = s.brute_force_nearest[i];
            s.measured[s.given_up[n + i]] = true;
        }
    }
}

// Measures the prototypes that no block holds. Those of one class are equally far, so that the first k are enough.
template <typename Element>
void measure_irregular(Screen<Element>& s, std::int64_t first, std::int64_t row) {
    const DistanceArguments& a = s.a;
    const std::int32_t* index = a.bank.index + a.bank.count[regular];
    if (index == a.bank.index + a.P) return;
    s.load_feature(first + row);
    Patience patience(a.C);
    for (int is = Class::huge; is < kClasses; ++is) {
        const std::int64_t count = a.bank.count[is];
        const std::int64_t enough = is == Class::huge ? count : lesser(count, a.k);
        for (std::int64_t i = 0; i < enough; ++i) {
            if (patience.ends()) return;
            s.nearest[row].push({s.key_to(index[i]), index[i]});
        }
        index += count;
    }
}

// Searches one split of the bank for one tile of features.
template <typename Element>
void search_item(const void* arguments, std::int64_t item, char* scratch) {
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    const std::int64_t number = item % a.splits, first = item / a.splits * a.rows, count = lesser(a.rows, a.M - first);
    const std::int64_t pairs = a.bank.blocks / 2;  // int8 screens blocks in pairs
    const Split split{pairs * number / a.splits * 2, pairs * (number + 1) / a.splits * 2, number + 1 == a.splits};
    Arena arena(scratch);
    Screen<Element> s(arena, a);
    for (std::int64_t i = 0; i < count; ++i) {
        Neighbor* const shared = a.partial + (number * a.M + first + i) * a.k;
        s.nearest[i] = Nearest(a.partial ? shared : s.neighbors + i * a.k, a.k);
        s.measured[i] = false;
    }
    screen_tile(s, split, first, count);
    measure_given_up(s, split, first);
    Patience patience(a.k * kPerNeighbor);
    for (std::int64_t i = 0; i < count; ++i) {
        if (patience.ends()) return;
        if (split.last && !s.measured[i]) measure_irregular(s, first, i);
        if (a.partial) {
            s.nearest[i].fill_up();
        } else {
            s.nearest[i].sort();
            write_row<Element>(a, first + i, s.nearest[i]);
        }
    }
}

template <typename Element>
struct Items {
    static Work search(const DistanceArguments& a) {
        Arena arena(nullptr);
        Screen<Element>(arena, a);
        return {(a.M + a.rows - 1) / a.rows * a.splits, a.threads, arena.used(), &search_item<Element>};
    }
};

}  // namespace

// The number of features that share a pass over the bank.
std::int64_t distance_tile_rows(const DistanceArguments& a) {
    const std::int64_t all = whole_groups(1), width = a.int8 ? 1 : 4;
    const std::int64_t bytes = a.C * width + kChunk * 4 + a.k * 8;
    const std::int64_t most = greater(all, lesser(kMostRows, 2 * kPanelBytes / bytes / all * all));
    const std::int64_t tiles = (a.M + most - 1) / most,
                       shared = tiles < a.threads ? tiles : (tiles + a.threads - 1) / a.threads * a.threads;
    const std::int64_t rows = (a.M + shared - 1) / shared, group = a.int8 ? kInt8Group : kFloatGroup;
    return lesser(most, (rows + group - 1) / group * group);
}

VSAD_BY_DTYPE(distance_screened_search, search, DistanceArguments)

}  // namespace VSAD_ISA
}  // namespace vsad
