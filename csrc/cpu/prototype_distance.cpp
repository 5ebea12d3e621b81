// Exact nearest prototypes at the speed of a matrix product.
//
// Screening computes, for all prototypes, a number that orders them like a rigorous lower bound of their
// squared distance, and keeps a few more candidates than asked for. The candidates are measured by direct
// difference. The k best of them are certified when even the lower bound of every other prototype lies behind
// them; a feature whose best are not certified is measured against the whole bank. So the answer is brute
// force's, bit for bit.
#include "cpu/prototype_distance.h"

#include "cpu/arena.h"
#include "cpu/prototype_distance_rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// The block of products that fits the registers: kRows features x kVectors vectors of prototypes.
#if defined(__AVX512F__)
constexpr int kRows = 8, kVectors = 3;  // 24 of 32 registers add up
#elif defined(__AVX__)
constexpr int kRows = 6, kVectors = 2;  // 12 of 16
#else
constexpr int kRows = 4, kVectors = 2;  // 8 of 16
#endif
constexpr int kPanel = kVectors * kLanes<float>;
constexpr std::int64_t kScreenBytes = 1 << 20;  // of features and candidates: a core's second-level cache
constexpr std::int64_t kScreenRows = 512;
constexpr std::int64_t kLeastScreened = 16;  // features; below that packing the bank costs more than it saves
constexpr double kUnit = 0x1p-24;            // rounding error of a float

std::int64_t kept_candidates(const DistanceArguments& a) { return a.k + 8 + a.k / 4; }

// The error of screening. f' = f - center and p' = p - center are rounded once, h = -|p'|^2 / 2 once, and their sum
// of C products at most C + 1 times, so with a = |f'|, b = |p'| the true squared distance is at least
//     a^2 - 2 (<f', p'> + h) - slack (a + b)^2,    (a + b)^2 <= 2 a^2 + 2 b^2.
// The part with b^2 goes into the offset of each prototype, the part with a^2 into the certificate.
double slack(const DistanceArguments& a) { return 1.01 * double(a.C + 16) * kUnit; }

void center_row(const DistanceArguments& a, float* row) {
    if (a.metric == Metric::cosine) return;  // unit rows stay what they are
    for (std::int64_t c = 0; c < a.C; ++c) row[c] -= a.center[c];
}

constexpr std::int64_t kPrepared = 256;  // prototypes an item

template <typename Element>
void prepare_item(const void* arguments, std::int64_t item, char* scratch) {
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    const std::int64_t padded = round_up<float>(a.C);
    float* row = reinterpret_cast<float*>(scratch);
    for (std::int64_t p = item * kPrepared; p < lesser(a.P, (item + 1) * kPrepared); ++p) {
        load_row<Element>(row, a.prototypes, p, a.C, a.metric);
        center_row(a, row);
        double squared = squared_length(row, padded);
        // A zero row is as far from every unit row as one across it: its squared distance is 2.
        if (a.metric == Metric::cosine && squared == 0) squared = 1 - 2 * slack(a);
        a.offset[p] = float(-squared * (0.5 - slack(a)));
    }
}

struct ScreenScratch {
    float *features, *rows, *panel, *tile, *threshold;
    double* squared;  // |f'|^2
    Best *kept, *nearest;
    std::int64_t* doubtful;

    ScreenScratch(Arena& arena, const DistanceArguments& a, std::int64_t rows_per_item) {
        const std::int64_t padded = round_up<float>(a.C), keep = kept_candidates(a);
        features = arena.take<float>(rows_per_item * a.C);
        rows = arena.take<float>(rows_per_item * padded);
        panel = arena.take<float>((padded + 1) * kPanel);
        tile = arena.take<float>(kLanes<float> * padded);
        threshold = arena.take<float>(rows_per_item);
        squared = arena.take<double>(rows_per_item);
        doubtful = arena.take<std::int64_t>(rows_per_item);
        kept = arena.take<Best>(rows_per_item);
        nearest = arena.take<Best>(rows_per_item);
        Candidate* candidates = arena.take<Candidate>(rows_per_item * (keep + a.k));
        for (std::int64_t i = 0; kept && i < rows_per_item; ++i, candidates += keep + a.k) {
            kept[i] = Best(candidates, keep);
            nearest[i] = Best(candidates + keep, a.k);
        }
    }
};

std::int64_t screened_rows(const DistanceArguments& a) {
    const std::int64_t bytes = 2 * 4 * a.C + std::int64_t(sizeof(Candidate)) * (kept_candidates(a) + a.k);
    const std::int64_t most = lesser(kScreenRows, kScreenBytes / greater<std::int64_t>(1, bytes));
    const std::int64_t rows = lesser(most, (a.M + a.threads - 1) / a.threads);
    return (greater<std::int64_t>(rows, 1) + kRows - 1) / kRows * kRows;
}

// Features in groups of kRows, interleaved: [group][c][row].
template <typename Element>
void pack_features(const DistanceArguments& a, const ScreenScratch& s, std::int64_t first, std::int64_t count) {
    const std::int64_t padded = round_up<float>(a.C);
    for (std::int64_t i = 0; i < (count + kRows - 1) / kRows * kRows; ++i) {
        float* to = s.features + i / kRows * kRows * a.C + i % kRows;
        if (i >= count) {
            for (std::int64_t c = 0; c < a.C; ++c) to[c * kRows] = 0;
            continue;
        }
        float* row = s.rows + i * padded;
        load_row<Element>(row, a.features, first + i, a.C, a.metric);
        float* moved = s.tile;
        __builtin_memcpy(moved, row, padded * sizeof(float));
        center_row(a, moved);
        for (std::int64_t c = 0; c < a.C; ++c) to[c * kRows] = moved[c];
        s.squared[i] = squared_length(moved, padded);
        s.threshold[i] = -__builtin_inff();
    }
}

// kPanel prototypes, interleaved: [c][prototype], after their offsets. What pads the bank has offset -inf.
template <typename Element>
void pack_panel(const DistanceArguments& a, const ScreenScratch& s, std::int64_t first) {
    constexpr int lanes = kLanes<float>;
    const std::int64_t padded = round_up<float>(a.C);
    for (int j = 0; j < kPanel; ++j) s.panel[j] = first + j < a.P ? a.offset[first + j] : -__builtin_inff();
    for (int group = 0; group < kPanel; group += lanes) {
        for (int i = 0; i < lanes; ++i) {
            const std::int64_t p = lesser(first + group + i, a.P - 1);
            load_row<Element>(s.tile + i * padded, a.prototypes, p, a.C, a.metric);
            center_row(a, s.tile + i * padded);
        }
        for (std::int64_t c = 0; c < padded; c += lanes) {
            Vector<float> square[lanes];
            for (int i = 0; i < lanes; ++i) square[i] = load(s.tile + i * padded + c);
            transpose<float>(square);
            for (int i = 0; i < lanes; ++i) store(s.panel + (1 + c + i) * kPanel + group, square[i]);
        }
    }
}

// score = <f', p'> + offset, the larger the nearer.
VSAD_HD void multiply(Vector<float> (&score)[kRows][kVectors], const float* features, const float* panel,
                      std::int64_t C) {
    constexpr int lanes = kLanes<float>;
    for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kVectors; ++j) score[i][j] = load(panel + j * lanes);
    for (std::int64_t c = 0; c < C; ++c, features += kRows) {
        panel += kPanel;
        for (int i = 0; i < kRows; ++i)
            for (int j = 0; j < kVectors; ++j) score[i][j] += features[i] * load(panel + j * lanes);
    }
}

// Keeps what beats the row's threshold. Few do, once the first panels are through.
VSAD_HD void select(Best& best, float& threshold, const Vector<float> (&score)[kVectors], std::int64_t first) {
    constexpr int lanes = kLanes<float>;
    const Vector<float> nothing = broadcast(-__builtin_inff());
    Vector<float> highest = nothing;
    for (int j = 0; j < kVectors; ++j) {
        const Vector<float> better = score[j] > threshold ? score[j] : nothing;  // NaN is never better
        highest = better > highest ? better : highest;
    }
    if (!(max_lanes<float>(highest) > threshold)) return;
    float scores[kPanel];
    for (int j = 0; j < kVectors; ++j) store(scores + j * lanes, score[j]);
    for (int j = 0; j < kPanel; ++j)
        if (scores[j] > threshold) {
            best.push({key_of(-scores[j]), first + j});
            if (best.full()) threshold = -value_of<float>(best.last().key);
        }
}

// Whether no prototype outside the candidates can be among the k nearest, in the arithmetic of
// direct_distances.
bool certified(const DistanceArguments& a, const Best& candidates, const Best& nearest, double squared) {
    if (candidates.size() == a.P) return true;
    if (!candidates.full()) return false;
    const double direct_error = (double(a.C) / kLanes<float> + 16) * kUnit;
    const double underflow = 4 * double(a.C + 1) * 0x1p-126;
    const double farthest = double(value_of<float>(nearest.last().key));
    const double bound = squared * (1 - 2 * slack(a)) + 2 * double(value_of<float>(candidates.last().key));
    // Below 1e37 nothing that could be nearer overflows; NaN certifies nothing.
    return squared < 1e37 && farthest < 1e37 && bound * (1 - 2 * direct_error) - underflow > farthest;
}

// Measures the candidates of each row; returns how many rows are not certified by them.
template <typename Element>
std::int64_t measure_candidates(const DistanceArguments& a, const ScreenScratch& s, std::int64_t count) {
    const std::int64_t padded = round_up<float>(a.C);
    RowTile<float> tile(s.tile, padded);
    std::int64_t doubtful = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        const Best& kept = s.kept[i];
        for (std::int64_t n = 0; n < kept.size(); ++n) {
            tile.add<Element>(a, kept[n].index);
            if (!tile.full() && n + 1 < kept.size()) continue;
            tile.measure(s.nearest[i], s.rows + i * padded, a.metric);
            tile.count = 0;
        }
        if (!certified(a, kept, s.nearest[i], s.squared[i])) s.doubtful[doubtful++] = i;
    }
    return doubtful;
}

// Measures some rows against the prototypes [begin, end).
template <typename Element, typename T>
void measure_all(const DistanceArguments& a, T* tile_memory, std::int64_t begin, std::int64_t end, const T* rows,
                 const std::int64_t* which, std::int64_t count, Best* nearest) {
    const std::int64_t padded = round_up<T>(a.C);
    RowTile<T> tile(tile_memory, padded);
    for (std::int64_t p = begin; p < end; p += kLanes<T>) {
        tile.count = 0;
        for (std::int64_t j = p; j < lesser(end, p + kLanes<T>); ++j) tile.template add<Element>(a, j);
        for (std::int64_t n = 0; n < count; ++n) tile.measure(nearest[which[n]], rows + which[n] * padded, a.metric);
    }
}

template <typename Element>
void screen_item(const void* arguments, std::int64_t item, char* scratch) {
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    const std::int64_t rows = screened_rows(a), first = item * rows, count = lesser(rows, a.M - first);
    Arena arena(scratch);
    const ScreenScratch s(arena, a, rows);
    pack_features<Element>(a, s, first, count);
    for (std::int64_t p = 0; p < a.P; p += kPanel) {
        pack_panel<Element>(a, s, p);
        for (std::int64_t i = 0; i < count; i += kRows) {
            Vector<float> score[kRows][kVectors];
            multiply(score, s.features + i * a.C, s.panel, a.C);
            for (std::int64_t row = i; row < lesser(count, i + kRows); ++row)
                select(s.kept[row], s.threshold[row], score[row - i], p);
        }
    }
    const std::int64_t doubtful = measure_candidates<Element>(a, s, count);
    for (std::int64_t n = 0; n < doubtful; ++n) s.nearest[s.doubtful[n]].clear();
    if (doubtful) measure_all<Element>(a, s.tile, 0, a.P, s.rows, s.doubtful, doubtful, s.nearest);
    for (std::int64_t i = 0; i < count; ++i) {
        s.nearest[i].sort();
        write_row<Element>(a, first + i, s.nearest[i]);
    }
}

template <typename T>
struct BruteScratch {
    T *rows, *tile;
    Best* nearest;
    std::int64_t* which;

    BruteScratch(Arena& arena, const DistanceArguments& a) {
        const std::int64_t padded = round_up<T>(a.C);
        rows = arena.take<T>(kBruteRows * padded);
        tile = arena.take<T>(kLanes<T> * padded);
        nearest = arena.take<Best>(kBruteRows);
        which = arena.take<std::int64_t>(kBruteRows);
    }
};

template <typename Element>
void brute_item(const void* arguments, std::int64_t item, char* scratch) {
    using T = typename Compute<Element>::type;
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    const std::int64_t chunk = item % a.chunks, first = item / a.chunks * kBruteRows;
    const std::int64_t count = lesser(kBruteRows, a.M - first), padded = round_up<T>(a.C);
    Arena arena(scratch);
    const BruteScratch<T> s(arena, a);
    for (std::int64_t i = 0; i < count; ++i) {
        load_row<Element>(s.rows + i * padded, a.features, first + i, a.C, a.metric);
        s.nearest[i] = Best(a.candidates + (chunk * a.M + first + i) * a.k, a.k);
        s.which[i] = i;
    }
    measure_all<Element>(a, s.tile, a.P * chunk / a.chunks, a.P * (chunk + 1) / a.chunks, s.rows, s.which, count,
                         s.nearest);
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
    static Work prepare(const DistanceArguments& a) {
        const std::int64_t bytes = round_up<float>(a.C) * std::int64_t(sizeof(float));
        return {(a.P + kPrepared - 1) / kPrepared, a.threads, bytes, &prepare_item<Element>};
    }
    static Work screen(const DistanceArguments& a) {
        const std::int64_t rows = screened_rows(a);
        Arena arena(nullptr);
        ScreenScratch(arena, a, rows);
        return {(a.M + rows - 1) / rows, a.threads, arena.used(), &screen_item<Element>};
    }
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

bool distance_screens(const DistanceArguments& a) {
    return a.dtype != Scalar::float64 && a.M >= kLeastScreened && 8 * kept_candidates(a) <= a.P && a.C > 0;
}

#define VSAD_BY_DTYPE(name, what)                \
    Work name(const DistanceArguments& a) {      \
        switch (a.dtype) {                       \
            case Scalar::float64:                \
                return Items<double>::what(a);   \
            case Scalar::bfloat16:               \
                return Items<bfloat16>::what(a); \
            case Scalar::float16:                \
                return Items<float16>::what(a);  \
            default:                             \
                return Items<float>::what(a);    \
        }                                        \
    }
VSAD_BY_DTYPE(distance_prepare, prepare)
VSAD_BY_DTYPE(distance_screen, screen)
VSAD_BY_DTYPE(distance_brute, brute)
VSAD_BY_DTYPE(distance_merge, merge)
#undef VSAD_BY_DTYPE

}  // namespace VSAD_ISA
}  // namespace vsad
