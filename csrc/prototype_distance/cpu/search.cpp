// Exact nearest prototypes at the speed of a matrix product of bytes.
//
// Features and prototypes, taken relative to the bank's centre and rounded to bytes (to float32 where the processor
// has no fast product of bytes), have distances D that cost little, and by the triangle inequality the true
// distance is D +- (|f - rounded f| + |p - rounded p|). Of every block of prototypes only the smallest D is kept.
// The k-th smallest upper bound, `reach`, holds for the k-th nearest prototype; a block whose lower bound lies
// beyond it has nothing to give. The blocks that remain are looked at row by row, and what still may be near is
// measured by direct difference. So the answer is brute force's, bit for bit, whatever the bounds are worth: where
// they are worth too little a feature is screened again in float32, and finally measured against every prototype.
#include "prototype_distance/cpu/kernels.h"

#include "prototype_distance/cpu/float.h"
#include "prototype_distance/cpu/round.h"
#include "prototype_distance/cpu/rows.h"
#include "prototype_distance/cpu/screen.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kPanelBytes = 1 << 18;  // of features: half of a small second-level cache
constexpr std::int64_t kMostRows = 768;

std::int64_t least_common_rows() { return 96; }  // whole groups of either arithmetic: 32, and 48, 24 or 8

// Packs the features that s.id names; returns how many, those that cannot be screened left out.
template <typename Element>
std::int64_t load_features(const DistanceArguments& a, Screen<Element>& s, const std::int64_t* ids, std::int64_t count,
                           bool bytes, std::int64_t first) {
    std::int64_t loaded = 0;
    for (std::int64_t n = 0; n < count; ++n) {
        load_row<Element>(s.row, a.features, first + ids[n], a.C, a.metric);
        center_row(s.centred, s.row, a.bank.center, a.C);
        const double squared = squared_length(s.centred, pad_row(a.C));
        if (!(squared < kHuge) || (a.metric == Metric::cosine && is_zero(s.row, pad_row(a.C)))) {
            s.give_up(ids[n]);
            continue;
        }
        s.id[loaded] = ids[n];
        bytes ? s.add_bytes(a, loaded, squared) : s.add_floats(a, loaded, squared);
        ++loaded;
    }
    const std::int64_t group = bytes ? kInt8Group : kFloatGroup;
    for (s.padded_rows = loaded; s.padded_rows % group; ++s.padded_rows) s.add_nothing(a, s.padded_rows, bytes);
    s.rows = loaded;
    return loaded;
}

template <typename Element>
void screen_blocks(const DistanceArguments& a, Screen<Element>& s, std::int64_t begin, std::int64_t end) {
    if (s.bytes) {
        const Int8Screen screen{a.bank.int8, begin, end, s.steps, s.panels8, s.scale, s.padded_rows, s.minima};
        a.int8->minima(screen);
    } else {
        for (std::int64_t block = begin; block < end; ++block) {
            pack_panel<Element>(a, s.panel, s.tile, s.row, block);
            s.feature_in_use = -1;
            float_minima(s.minima + (block - begin) * s.padded_rows, s.panels, s.padded_rows, s.panel,
                         a.bank.offset + block * kBlock, a.C);
        }
    }
}

// Screens the features `ids` against the blocks [begin, end); those it gives up on are appended to s.hard.
template <typename Element>
void screen(const DistanceArguments& a, Screen<Element>& s, const std::int64_t* ids, std::int64_t count,
            std::int64_t begin, std::int64_t end, std::int64_t first, bool bytes) {
    s.start(a, bytes, first, end - begin);
    if (!load_features(a, s, ids, count, bytes, first)) return;
    for (std::int64_t block = begin; block < end; block += kChunk) {
        const std::int64_t stop = lesser(end, block + kChunk);
        screen_blocks(a, s, block, stop);
        sift(a, s, block, stop);
    }
    s.examine_all(a, begin, end);
}

// The prototypes that no block holds. Those of one class are equally far, so that the first k are enough.
template <typename Element>
void measure_special(const DistanceArguments& a, Screen<Element>& s, std::int64_t first, std::int64_t row) {
    const std::int32_t* index = a.bank.index + a.bank.count[regular];
    if (index == a.bank.index + a.P) return;
    s.load_feature(a, first + row);
    for (int is = Class::huge; is < kClasses; ++is) {
        const std::int64_t count = a.bank.count[is];
        const std::int64_t enough = is == Class::huge ? count : lesser(count, a.k);
        for (std::int64_t i = 0; i < enough; ++i) s.nearest[row].push({s.key_to(a, index[i]), index[i]});
        index += count;
    }
}

template <typename Element>
void screen_item(const void* arguments, std::int64_t item, char* scratch) {
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    const std::int64_t chunk = item % a.chunks, first = item / a.chunks * a.rows, count = lesser(a.rows, a.M - first);
    const std::int64_t pairs = a.bank.blocks / 2;
    const std::int64_t begin = pairs * chunk / a.chunks * 2, end = pairs * (chunk + 1) / a.chunks * 2;
    const bool last = chunk + 1 == a.chunks;
    Arena arena(scratch);
    Screen<Element> s(arena, a);
    std::int64_t* ids = s.ids[0];
    for (std::int64_t i = 0; i < count; ++i) {
        ids[i] = i;
        Candidate* const shared = a.candidates + (chunk * a.M + first + i) * a.k;
        s.nearest[i] = Best(a.candidates ? shared : s.candidates + i * a.k, a.k);
        s.measured[i] = false;
    }
    if (a.int8) screen(a, s, ids, count, begin, end, first, true);
    std::int64_t hard = count;
    if (a.int8) {
        hard = s.hard_count;
        ids = s.ids[1];
        __builtin_memcpy(ids, s.hard, hard * sizeof *ids);
        s.hard_count = 0;
    }
    for (std::int64_t n = 0; n < hard; n += s.float_rows)
        screen(a, s, ids + n, lesser(hard - n, s.float_rows), begin, end, first, false);

    // What is left is measured against everything, a few features at a time.
    const std::int64_t padded = pad_row(a.C), stop = last ? a.P : lesser(end * kBlock, a.bank.count[regular]);
    const auto index = [&](std::int64_t p) { return std::int64_t(a.bank.index[p]); };
    for (std::int64_t n = 0; n < s.hard_count; n += kBruteRows) {
        const std::int64_t rows = lesser(kBruteRows, s.hard_count - n);
        for (std::int64_t i = 0; i < rows; ++i) {
            load_row<Element>(s.brute + i * padded, a.features, first + s.hard[n + i], a.C, a.metric);
            s.brute_nearest[i] = s.nearest[s.hard[n + i]];
            s.brute_nearest[i].clear();
        }
        measure_all<Element>(a, s.brute_tile, begin * kBlock, stop, index, s.brute, rows, s.brute_nearest);
        for (std::int64_t i = 0; i < rows; ++i) {
            s.nearest[s.hard[n + i]] = s.brute_nearest[i];
            s.measured[s.hard[n + i]] = true;
        }
    }
    for (std::int64_t i = 0; i < count; ++i) {
        if (last && !s.measured[i]) measure_special(a, s, first, i);
        if (a.candidates) {
            s.nearest[i].fill_up();
        } else {
            s.nearest[i].sort();
            write_row<Element>(a, first + i, s.nearest[i]);
        }
    }
}

template <typename Element>
struct Items {
    static Work screen(const DistanceArguments& a) {
        Arena arena(nullptr);
        Screen<Element>(arena, a);
        return {(a.M + a.rows - 1) / a.rows * a.chunks, a.threads, arena.used(), &screen_item<Element>};
    }
};

}  // namespace

// How many features share a pass over the bank.
std::int64_t distance_rows(const DistanceArguments& a) {
    const std::int64_t all = least_common_rows(), width = a.int8 ? 1 : 4;
    const std::int64_t bytes = a.C * width + kChunk * 4 + a.k * 8;
    const std::int64_t most = greater(all, lesser(kMostRows, 2 * kPanelBytes / bytes / all * all));
    const std::int64_t tiles = (a.M + most - 1) / most,
                       shared = tiles < a.threads ? tiles : (tiles + a.threads - 1) / a.threads * a.threads;
    const std::int64_t rows = (a.M + shared - 1) / shared, group = a.int8 ? kInt8Group : kFloatGroup;
    return lesser(most, (rows + group - 1) / group * group);
}

VSAD_BY_DTYPE(distance_screen, screen, DistanceArguments)

}  // namespace VSAD_ISA
}  // namespace vsad
