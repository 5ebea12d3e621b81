// What screening and brute force share: rows in the compute dtype, and distances by direct difference.
#pragma once

#include "cpu/arena.h"
#include "cpu/dispatch.h"
#include "cpu/simd.h"
#include "prototype_distance/cpu/nearest.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// Every distance is the sum of kParts partial sums, added in one fixed order and never fused, so that every instruction
// set gives the same bits. Rows are padded with zeros to a multiple of kParts.
constexpr int kParts = 16;

VSAD_HD std::int64_t pad_row(std::int64_t C) { return (C + kParts - 1) / kParts * kParts; }

template <typename T>
struct Parts {
    static constexpr int kVectors = kParts / kLanes<T>;
    Vector<T> part[kVectors] = {};

    void add_squared_difference(const T* x, const T* y) {
        for (int i = 0; i < kVectors; ++i) {
            const Vector<T> difference = load(x + i * kLanes<T>) - load(y + i * kLanes<T>);
            part[i] += rounded(difference * difference);
        }
    }
    T sum() const {
        Parts halves = *this;
        for (int n = kVectors / 2; n > 0; n /= 2)
            for (int i = 0; i < n; ++i) halves.part[i] += halves.part[i + n];
        return sum_lanes<T>(halves.part[0]);
    }
};

template <typename T>
double squared_length(const T* row, std::int64_t padded) {
    constexpr double zeros[kParts] = {};
    Parts<double> sums;
    for (std::int64_t c = 0; c < padded; c += kParts) {
        double wide[kParts];
        for (int i = 0; i < kParts; ++i) wide[i] = double(row[c + i]);
        sums.add_squared_difference(wide, zeros);
    }
    return sums.sum();
}

// Loads a row in the compute dtype, normalized to unit length for the cosine. A row of zeros stays zero.
template <typename Element, typename T>
void load_row(T* to, const Matrix& m, std::int64_t row, std::int64_t C, Metric metric) {
    const Element* from = static_cast<const Element*>(m.data) + row * m.row;
    const std::int64_t padded = pad_row(C);
    if (m.column == 1)
        for (std::int64_t c = 0; c < C; ++c) to[c] = widen(from[c]);
    else
        for (std::int64_t c = 0; c < C; ++c) to[c] = widen(from[c * m.column]);
    for (std::int64_t c = C; c < padded; ++c) to[c] = 0;
    if (metric != Metric::cosine) return;
    const double squared = squared_length(to, padded), inverse = squared == 0 ? 0 : 1 / __builtin_sqrt(squared);
    for (std::int64_t c = 0; c < C; ++c) to[c] = T(double(to[c]) * inverse);
}

// The squared distance by direct difference, which every result is.
template <typename T>
T direct_distance(const T* x, const T* y, std::int64_t padded) {
    Parts<T> sums;
    for (std::int64_t c = 0; c < padded; c += kParts) sums.add_squared_difference(x + c, y + c);
    return sums.sum();
}

constexpr int kTogether = kVectorBytes / 8;  // rows whose partial sums fit the registers at the same time

// The squared distances from one row to kTogether others.
template <typename T>
void direct_distances(T* to, const T* row, const T* others, std::int64_t padded) {
    Parts<T> sums[kTogether];
    for (std::int64_t c = 0; c < padded; c += kParts)
        for (int i = 0; i < kTogether; ++i) sums[i].add_squared_difference(row + c, others + i * padded + c);
    for (int i = 0; i < kTogether; ++i) to[i] = sums[i].sum();
}

// The relative error of a direct squared distance whose operations round by `unit`.
VSAD_HD double direct_error(std::int64_t C, double unit) { return (double(C) / kParts + 16) * unit; }

// A row of zeros has no direction: its cosine distance is 1, that is 2 as the squared distance between unit rows.
template <typename T>
bool is_zero(const T* row, std::int64_t padded) {
    for (std::int64_t c = 0; c < padded; ++c)
        if (row[c] != 0) return false;
    return true;
}

// A few loaded prototypes, which are measured against loaded features in turn.
template <typename T>
struct RowTile {
    T* rows;  // (kTogether, padded)
    std::int64_t padded;
    std::int64_t indices[kTogether];
    bool zero[kTogether];
    int count = 0;

    RowTile(T* memory, std::int64_t padded) : rows(memory), padded(padded) { fill(rows, kTogether * padded, T(0)); }

    bool full() const { return count == kTogether; }

    template <typename Element>
    void add(const DistanceArguments& a, std::int64_t index) {
        T* row = rows + count * padded;
        load_row<Element>(row, a.prototypes, index, a.C, a.metric);
        zero[count] = a.metric == Metric::cosine && is_zero(row, padded);
        indices[count++] = index;
    }

    void measure(Nearest& nearest, const T* feature, Metric metric) const {
        T squared[kTogether];
        direct_distances(squared, feature, rows, padded);
        const bool no_direction = metric == Metric::cosine && is_zero(feature, padded);
        for (int i = 0; i < count; ++i) nearest.push({key_of(zero[i] || no_direction ? T(2) : squared[i]), indices[i]});
    }
};

// Measures `count` rows against the prototypes index(begin), ..., index(end - 1), unless the call is abandoned.
template <typename Element, typename T, typename Index>
void measure_all(const DistanceArguments& a, T* tile_memory, std::int64_t begin, std::int64_t end, Index index,
                 const T* rows, std::int64_t count, Nearest* nearest) {
    const std::int64_t padded = pad_row(a.C);
    RowTile<T> tile(tile_memory, padded);
    Patience patience(count * padded);
    for (std::int64_t p = begin; p < end; ++p) {
        if (patience.ends()) return;
        tile.template add<Element>(a, index(p));
        if (!tile.full() && p + 1 < end) continue;
        for (std::int64_t i = 0; i < count; ++i) tile.measure(nearest[i], rows + i * padded, a.metric);
        tile.count = 0;
    }
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad

// Defines a function that the binding calls, from the Items<Element> of a source file.
#define VSAD_BY_DTYPE(name, what, Arguments)                                                              \
    Work name(const Arguments& a) {                                                                       \
        return with_float_type(a.dtype, [&](auto element) { return Items<decltype(element)>::what(a); }); \
    }
