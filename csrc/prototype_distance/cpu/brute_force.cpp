// Every feature against every prototype: for small problems, and what every other way must agree with.
#include "prototype_distance/cpu/kernels.h"
#include "prototype_distance/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

template <typename T>
struct Scratch {
    T *rows, *tile;
    Nearest* nearest;

    Scratch(Arena& arena, const DistanceArguments& a) {
        rows = arena.take<T>(kBruteForceRows * pad_row(a.C));
        tile = arena.take<T>(kTogether * pad_row(a.C));
        nearest = arena.take<Nearest>(kBruteForceRows);
    }
};

template <typename Element>
void brute_force_item(const void* arguments, std::int64_t item, char* scratch) {
    using T = typename Compute<Element>::type;
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    const std::int64_t split = item % a.splits, first = item / a.splits * kBruteForceRows;
    const std::int64_t count = lesser(kBruteForceRows, a.M - first), padded = pad_row(a.C);
    const std::int64_t begin = a.P * split / a.splits, end = a.P * (split + 1) / a.splits;
    Arena arena(scratch);
    const Scratch<T> s(arena, a);
    for (std::int64_t i = 0; i < count; ++i) {
        load_row<Element>(s.rows + i * padded, a.features, first + i, a.C, a.metric);
        s.nearest[i] = Nearest(a.partial + (split * a.M + first + i) * a.k, a.k);
    }
    const auto index = [](std::int64_t p) { return p; };
    measure_all<Element>(a, s.tile, begin, end, index, s.rows, count, s.nearest);
}

template <typename Element>
void merge_item(const void* arguments, std::int64_t item, char*) {
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    Patience patience(a.splits * a.k * kPerNeighbor);
    for (std::int64_t row = item * kBruteForceRows; row < lesser(a.M, (item + 1) * kBruteForceRows); ++row) {
        if (patience.ends()) return;
        Nearest nearest(a.partial + row * a.k, a.k, a.k);
        for (std::int64_t split = 1; split < a.splits; ++split)
            for (std::int64_t i = 0; i < a.k; ++i) nearest.push(a.partial[(split * a.M + row) * a.k + i]);
        nearest.sort();
        write_row<Element>(a, row, nearest);
    }
}

template <typename Element>
struct Items {
    static Work brute_force(const DistanceArguments& a) {
        Arena arena(nullptr);
        Scratch<typename Compute<Element>::type>(arena, a);
        const std::int64_t tiles = (a.M + kBruteForceRows - 1) / kBruteForceRows;
        return {tiles * a.splits, a.threads, arena.used(), &brute_force_item<Element>};
    }
    static Work merge_splits(const DistanceArguments& a) {
        return {(a.M + kBruteForceRows - 1) / kBruteForceRows, a.threads, 0, &merge_item<Element>};
    }
};

}  // namespace

VSAD_BY_DTYPE(distance_brute_force, brute_force, DistanceArguments)
VSAD_BY_DTYPE(distance_merge_splits, merge_splits, DistanceArguments)

}  // namespace VSAD_ISA
}  // namespace vsad
