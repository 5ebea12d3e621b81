// Every feature against every prototype: for small problems, and what every other way must agree with.
#include "prototype_distance/cpu/kernels.h"
#include "prototype_distance/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

template <typename T>
struct BruteScratch {
    T *rows, *tile;
    Best* nearest;

    BruteScratch(Arena& arena, const DistanceArguments& a) {
        rows = arena.take<T>(kBruteRows * pad_row(a.C));
        tile = arena.take<T>(kTogether * pad_row(a.C));
        nearest = arena.take<Best>(kBruteRows);
    }
};

template <typename Element>
void brute_item(const void* arguments, std::int64_t item, char* scratch) {
    using T = typename Compute<Element>::type;
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    const std::int64_t chunk = item % a.chunks, first = item / a.chunks * kBruteRows;
    const std::int64_t count = lesser(kBruteRows, a.M - first), padded = pad_row(a.C);
    Arena arena(scratch);
    const BruteScratch<T> s(arena, a);
    for (std::int64_t i = 0; i < count; ++i) {
        load_row<Element>(s.rows + i * padded, a.features, first + i, a.C, a.metric);
        s.nearest[i] = Best(a.candidates + (chunk * a.M + first + i) * a.k, a.k);
    }
    measure_all<Element>(
        a, s.tile, a.P * chunk / a.chunks, a.P * (chunk + 1) / a.chunks, [](std::int64_t p) { return p; }, s.rows,
        count, s.nearest);
}

template <typename Element>
void merge_item(const void* arguments, std::int64_t item, char*) {
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    for (std::int64_t row = item * kBruteRows; row < lesser(a.M, (item + 1) * kBruteRows); ++row) {
        Best nearest(a.candidates + row * a.k, a.k, a.k);
        for (std::int64_t chunk = 1; chunk < a.chunks; ++chunk)
            for (std::int64_t i = 0; i < a.k; ++i) nearest.push(a.candidates[(chunk * a.M + row) * a.k + i]);
        nearest.sort();
        write_row<Element>(a, row, nearest);
    }
}

template <typename Element>
struct Items {
    static Work brute(const DistanceArguments& a) {
        Arena arena(nullptr);
        BruteScratch<typename Compute<Element>::type>(arena, a);
        return {(a.M + kBruteRows - 1) / kBruteRows * a.chunks, a.threads, arena.used(), &brute_item<Element>};
    }
    static Work merge(const DistanceArguments& a) {
        return {(a.M + kBruteRows - 1) / kBruteRows, a.threads, 0, &merge_item<Element>};
    }
};

}  // namespace

VSAD_BY_DTYPE(distance_brute, brute, DistanceArguments)
VSAD_BY_DTYPE(distance_merge, merge, DistanceArguments)

}  // namespace VSAD_ISA
}  // namespace vsad
