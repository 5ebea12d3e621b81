// The plain k-center greedy, pick for pick, for a fraction of its distances.
//
// A point's distance to the picks that it was compared with bounds its distance to all picks from above. So only the
// points with the highest bounds can be picked next: they are the candidates of a round. Candidates are compared with
// the picks that they have not seen, in the form of a matrix product, and the plain greedy runs among them alone until
// the next pick would rank below a point that is no candidate.
//
// A candidate that has fallen below `limit` need not be compared further in this round. One near pick is enough for
// that, so candidates are compared with the picks of their own region first.
#include "greedy_coreset/cpu/kernels.h"

#include "cpu/arena.h"
#include "cpu/dispatch.h"
#include "greedy_coreset/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kItemRows = 256;  // most candidates that share a pass over the panels

Far leader(const CoresetArguments& a, std::int64_t block) {
    constexpr int lanes = kLanes<double>;
    const std::int64_t begin = block * a.block, end = lesser(a.M, begin + a.block);
    Vector<double> highest = broadcast(-1.0);
    std::int64_t m = begin;
    for (; m + lanes <= end; m += lanes) {
        const Vector<double> v = load(a.nearest + m);
        highest = v > highest ? v : highest;
    }
    double best = max_lanes<double>(highest);
    for (; m < end; ++m) best = greater(best, a.nearest[m]);
    for (m = begin; a.nearest[m] != best;) ++m;
    return {best, m};
}

// Writes the anchor with the highest score; if some are NaN, any anchor.
void find_regions(const CoresetArguments& a, const float* const (&rows)[kRows], std::uint8_t* regions,
                  std::int64_t count) {
    float scores[kRows][kPanel];
    for (int slice = 0; slice < kPanel; slice += kSlice) {
        Vector<float> score[kRows][kVectors];
        multiply(score, rows, a.anchors + slice, a.C);
        for (int i = 0; i < kRows; ++i)
            for (int j = 0; j < kVectors; ++j) store(scores[i] + slice + j * kLanes<float>, score[i][j]);
    }
    for (std::int64_t i = 0; i < count; ++i) {
        int best = 0;
        for (int j = 1; j < kPanel; ++j)
            if (scores[i][j] > scores[i][best]) best = j;
        regions[i] = std::uint8_t(best);
    }
}

// Compares the points of a block with the first pick, and finds their regions. A row that is not finite counts as
// covered, and covers nothing.
template <typename Element>
void begin_item(const void* arguments, std::int64_t item, char* scratch) {
    const CoresetArguments& a = *static_cast<const CoresetArguments*>(arguments);
    const Element* start = row_of<Element>(a, a.picks[0]);
    const std::int64_t begin = item * a.block, end = lesser(a.M, begin + a.block);
    for (std::int64_t m = begin; m < end; ++m) {
        const double squared = squared_distance(row_of<Element>(a, m), start, a.C);
        const bool far = squared < __builtin_inf() || is_finite(row_of<Element>(a, m), a.C);
        a.nearest[m] = m == a.picks[0] ? -1 : !far ? 0 : squared == squared ? squared : __builtin_inf();
        a.seen[m] = 1;
        a.region_seen[m] = 0;
        a.region[m] = 0;
    }
    a.leaders[item] = leader(a, item);
    if (!a.anchors) return;
    const std::int64_t padded = padded_channels(a);
    float* packed = reinterpret_cast<float*>(scratch);
    for (std::int64_t m = begin; m < end; m += kRows) {
        const std::int64_t count = lesser<std::int64_t>(kRows, end - m);
        const float* rows[kRows];
        for (std::int64_t i = 0; i < kRows; ++i) {
            rows[i] = packed + lesser(i, count - 1) * padded;
            if (i < count) center_row(packed + i * padded, a, row_of<Element>(a, m + i));
        }
        find_regions(a, rows, a.region + m, count);
    }
}

// Takes points at even distances in memory as anchors. Results do not depend on which.
template <typename Element>
void put_anchors(const CoresetArguments& a) {
    for (int i = 0; i < kRegions; ++i) {
        const double squared = center_row(a.rows, a, row_of<Element>(a, a.M / kRegions * i));
        put_column(a, a.anchors, i, a.rows, squared);
    }
}

// The candidates of an item that are compared with a panel together.
struct Group {
    int slots[kItemRows];
    float thresholds[kItemRows];
    int count = 0;

    void add(const CoresetArguments& a, std::int64_t slot) {
        thresholds[count] = threshold(a, a.squared[slot], a.nearest[a.candidates[slot]]);
        slots[count++] = int(slot);
    }
};

struct Panel {
    const float* data;
    const std::int64_t* picks;
    std::int64_t count;
};

// Measures a candidate with those picks of a slice that may be nearer than its nearest pick so far.
template <typename Element>
void measure(const CoresetArguments& a, std::int64_t slot, float& limit, const Vector<float> (&score)[kVectors],
             const Panel& panel, int first) {
    const std::int64_t m = a.candidates[slot];
    float scores[kSlice];
    for (int j = 0; j < kVectors; ++j) store(scores + j * kLanes<float>, score[j]);
    for (int j = 0; j < lesser<std::int64_t>(kSlice, panel.count - first); ++j) {
        if (scores[j] <= limit) continue;
        const Element* pick = row_of<Element>(a, panel.picks[first + j]);
        const double squared = squared_distance(row_of<Element>(a, m), pick, a.C);
        if (!(squared < a.nearest[m])) continue;  // NaN covers nothing
        a.nearest[m] = squared;
        limit = threshold(a, a.squared[slot], squared);
    }
}

template <typename Element>
void compare(const CoresetArguments& a, Group& group, const Panel& panel) {
    const std::int64_t padded = padded_channels(a);
    for (int at = 0; at < group.count; at += kRows) {
        const float* rows[kRows];
        float limits[kRows];
        for (int i = 0; i < kRows; ++i) {
            const int from = lesser(at + i, group.count - 1);
            rows[i] = a.rows + group.slots[from] * padded;
            limits[i] = group.thresholds[from];
        }
        for (int slice = 0; slice < kPanel; slice += kSlice) {
            Vector<float> score[kRows][kVectors];
            multiply(score, rows, panel.data + slice, a.C);
            Mask hit{};
            for (int i = 0; i < kRows; ++i) hit |= above(score[i], limits[i]);
            if (!any(hit)) continue;
            for (int i = 0; i < lesser(kRows, group.count - at); ++i)
                if (any(above(score[i], limits[i])))
                    measure<Element>(a, group.slots[at + i], group.thresholds[at + i], score[i], panel, slice);
        }
    }
}

bool contends(const CoresetArguments& a, std::int64_t m) { return a.nearest[m] > 0 && a.nearest[m] >= a.limit.squared; }

// Compares the candidates [begin, end), all of one region, with the picks of that region.
template <typename Element>
void compare_with_region(const CoresetArguments& a, std::int64_t begin, std::int64_t end) {
    const int region = a.region[a.candidates[begin]];
    Patience patience(kPanel * (end - begin) * a.C);
    for (std::int64_t p = a.first_of_region[region]; p >= 0; p = a.regions[p].next) {
        if (patience.ends()) return;
        Group group;
        for (std::int64_t slot = begin; slot < end; ++slot) {
            const std::int64_t m = a.candidates[slot];
            if (greater(a.seen[m], a.region_seen[m]) <= a.regions[p].last && contends(a, m)) group.add(a, slot);
        }
        compare<Element>(a, group, {a.region_panels + p * panel_floats(a), a.regions[p].picks, a.regions[p].count});
        for (int i = 0; i < group.count; ++i) a.region_seen[a.candidates[group.slots[i]]] = a.regions[p].last + 1;
    }
}

// The slots of candidates that still contend, sorted by how many picks they have seen; returns how many there are.
int contenders(const CoresetArguments& a, int* slots, std::int64_t begin, std::int64_t end) {
    int count = 0;
    for (std::int64_t slot = begin; slot < end; ++slot) {
        if (!contends(a, a.candidates[slot])) continue;
        int at = count++;
        for (; at > 0 && a.seen[a.candidates[slots[at - 1]]] > a.seen[a.candidates[slot]]; --at)
            slots[at] = slots[at - 1];
        slots[at] = int(slot);
    }
    return count;
}

// Compares candidates with all picks in order, until they have seen all or no longer contend.
template <typename Element>
void compare_with_all(const CoresetArguments& a, const int* slots, int count) {
    Group group;
    int next = 0;
    Patience patience(kPanel * count * a.C);
    for (std::int64_t first = a.seen[a.candidates[slots[0]]] / kPanel * kPanel; first < a.picked; first += kPanel) {
        if (patience.ends()) return;
        const std::int64_t last = lesser(a.picked, first + kPanel);
        for (; next < count && a.seen[a.candidates[slots[next]]] < last; ++next) group.add(a, slots[next]);
        compare<Element>(a, group, {a.panels + first * (a.C + 1), a.picks + first, last - first});
        int kept = 0;
        for (int i = 0; i < group.count; ++i) {
            const std::int64_t m = a.candidates[group.slots[i]];
            a.seen[m] = last;
            if (!contends(a, m)) continue;
            group.slots[kept] = group.slots[i];
            group.thresholds[kept++] = group.thresholds[i];
        }
        group.count = kept;
    }
}

std::int64_t item_rows(const CoresetArguments& a) {
    const std::int64_t share = (a.count + 4 * a.threads - 1) / (4 * a.threads);
    return lesser(kItemRows, greater<std::int64_t>(1, (share + kRows - 1) / kRows) * kRows);
}

template <typename Element>
void pack_candidates(const CoresetArguments& a, std::int64_t begin, std::int64_t end) {
    for (std::int64_t slot = begin; slot < end; ++slot) {
        // Candidates are scattered in memory: without prefetching, every row would wait for it.
        const Element* soon = row_of<Element>(a, a.candidates[lesser(slot + 2, end - 1)]);
        for (std::int64_t c = 0; c < a.C; c += 64 / std::int64_t(sizeof(Element))) __builtin_prefetch(soon + c);
        a.squared[slot] = center_row(a.rows + slot * padded_channels(a), a, row_of<Element>(a, a.candidates[slot]));
    }
}

template <typename Element>
void refresh_item(const void* arguments, std::int64_t item, char*) {
    const CoresetArguments& a = *static_cast<const CoresetArguments*>(arguments);
    const std::int64_t begin = item * item_rows(a), end = lesser(a.count, begin + item_rows(a));
    pack_candidates<Element>(a, begin, end);
    for (std::int64_t from = begin, to = begin; from < end; from = to) {
        while (to < end && a.region[a.candidates[to]] == a.region[a.candidates[from]]) ++to;
        compare_with_region<Element>(a, from, to);
    }
    int slots[kItemRows];
    const int count = contenders(a, slots, begin, end);
    if (count) compare_with_all<Element>(a, slots, count);
}

// The last panel of a region's chain, after a new one is appended if it is full.
std::int64_t open_region_panel(CoresetArguments& a, int region) {
    const std::int64_t last = a.last_of_region[region];
    if (last >= 0 && a.regions[last].count < kPanel) return last;
    const std::int64_t added = a.region_count++;
    a.regions[added].count = 0;
    a.regions[added].next = -1;
    (last < 0 ? a.first_of_region[region] : a.regions[last].next) = added;
    return a.last_of_region[region] = added;
}

void add_pick(CoresetArguments& a, std::int64_t slot) {
    const std::int64_t m = a.candidates[slot], column = a.picked % kPanel;
    const float* row = a.rows + slot * padded_channels(a);
    put_column(a, a.panels + (a.picked - column) * (a.C + 1), column, row, a.squared[slot]);
    if (a.anchors) {
        const std::int64_t p = open_region_panel(a, a.region[m]);
        RegionPanel& panel = a.regions[p];
        put_column(a, a.region_panels + p * panel_floats(a), panel.count, row, a.squared[slot]);
        panel.picks[panel.count++] = m;
        panel.last = a.picked;
    }
    a.nearest[m] = -1;
    a.picks[a.picked++] = m;
}

// Compares a candidate that has seen all picks but the last with the last.
template <typename Element>
void compare_with_pick(const CoresetArguments& a, std::int64_t slot, std::int64_t pick_slot, float pick_offset) {
    const std::int64_t m = a.candidates[slot], padded = padded_channels(a);
    a.seen[m] = a.picked;
    if (!(a.nearest[m] > 0)) return;
    const float score = multiply(a.rows + slot * padded, a.rows + pick_slot * padded, pick_offset, padded);
    if (score <= threshold(a, a.squared[slot], a.nearest[m])) return;
    const Element* pick = row_of<Element>(a, a.candidates[pick_slot]);
    const double squared = squared_distance(row_of<Element>(a, m), pick, a.C);
    if (squared < a.nearest[m]) a.nearest[m] = squared;
}

// Picks among the candidates for as long as the next pick is certainly one of them, unless the call is abandoned.
template <typename Element>
void pick_all(CoresetArguments& a) {
    const auto far = [&a](std::int64_t slot) { return Far{a.nearest[a.candidates[slot]], a.candidates[slot]}; };
    std::int64_t count = 0;
    a.compared = 0;
    for (std::int64_t slot = 0; slot < a.count; ++slot)
        if (far(slot).before(a.limit)) a.active[count++] = slot;
    Patience patience(count * a.C);
    while (a.picked < a.size && count) {
        if (patience.ends()) return;
        std::int64_t chosen = a.active[0];
        for (std::int64_t i = 1; i < count; ++i)
            if (far(a.active[i]).before(far(chosen))) chosen = a.active[i];
        add_pick(a, chosen);
        const float pick_offset = offset(a, a.squared[chosen]);
        a.compared += count;
        std::int64_t kept = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            compare_with_pick<Element>(a, a.active[i], chosen, pick_offset);
            if (far(a.active[i]).before(a.limit)) a.active[kept++] = a.active[i];
        }
        count = kept;
    }
    for (std::int64_t i = 0; i < a.touched_count; ++i) a.leaders[a.touched[i]] = leader(a, a.touched[i]);
}

template <typename Element>
Work begin(CoresetArguments& a) {
    if (a.anchors) put_anchors<Element>(a);
    const std::int64_t bytes = kRows * padded_channels(a) * std::int64_t(sizeof(float));
    return {(a.M + a.block - 1) / a.block, a.threads, bytes, &begin_item<Element>};
}

template <typename Element>
Work refresh(const CoresetArguments& a) {
    return {(a.count + item_rows(a) - 1) / item_rows(a), a.threads, 0, &refresh_item<Element>};
}

}  // namespace

Work coreset_begin(CoresetArguments& a) {
    return with_float_type(a.dtype, [&](auto element) { return begin<decltype(element)>(a); });
}
Work coreset_refresh(const CoresetArguments& a) {
    return with_float_type(a.dtype, [&](auto element) { return refresh<decltype(element)>(a); });
}
void coreset_pick(CoresetArguments& a) {
    with_float_type(a.dtype, [&](auto element) { pick_all<decltype(element)>(a); });
}

}  // namespace VSAD_ISA
}  // namespace vsad
