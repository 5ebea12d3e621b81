// What screening and brute force share: rows in the compute dtype, the distance by direct difference, the k
// best.
#pragma once

#include "cpu/arena.h"
#include "cpu/simd.h"
#include "prototype_distance/cpu/kernels.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// Unsigned numbers that order as floating point numbers do, with NaN above infinity. The sign of NaN is
// dropped.
VSAD_HD std::uint64_t key_of(float x) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(x == x ? x : __builtin_nanf(""));
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
VSAD_HD std::uint64_t key_of(double x) {
    const std::uint64_t bits = bit_cast<std::uint64_t>(x == x ? x : __builtin_nan(""));
    return bits ^ (bits >> 63 ? ~std::uint64_t(0) : std::uint64_t(1) << 63);
}
template <typename T>
VSAD_HD T value_of(std::uint64_t key);
template <>
VSAD_HD float value_of<float>(std::uint64_t key) {
    const std::uint32_t bits = std::uint32_t(key);
    return bit_cast<float>(bits ^ (bits >> 31 ? 0x80000000u : 0xffffffffu));
}
template <>
VSAD_HD double value_of<double>(std::uint64_t key) {
    return bit_cast<double>(key ^ (key >> 63 ? std::uint64_t(1) << 63 : ~std::uint64_t(0)));
}

VSAD_HD bool before(const Candidate& a, const Candidate& b) {
    return a.key < b.key || (a.key == b.key && a.index < b.index);
}

// The `capacity` first candidates of all that were pushed: a heap with the last of them on top.
class Best {
  public:
    // `size` candidates may stand in the memory already, as an earlier heap left them.
    Best(Candidate* memory, std::int64_t capacity, std::int64_t size = 0)
        : heap_(memory), capacity_(capacity), size_(size) {}

    std::int64_t size() const { return size_; }
    bool full() const { return size_ == capacity_; }
    const Candidate& last() const { return heap_[0]; }
    const Candidate& operator[](std::int64_t i) const { return heap_[i]; }

    void clear() { size_ = 0; }

    void push(Candidate c) {
        if (!full()) {
            std::int64_t i = size_++;
            for (; i > 0 && before(heap_[(i - 1) / 2], c); i = (i - 1) / 2) heap_[i] = heap_[(i - 1) / 2];
            heap_[i] = c;
        } else if (before(c, last())) {
            sink(c, size_);
        }
    }

    // Pads with what comes after every prototype.
    void fill_up() {
        while (!full()) push({~std::uint64_t(0), INT64_MAX});
    }

    // Puts them in ascending order; nothing may be pushed afterwards.
    void sort() {
        for (std::int64_t n = size_ - 1; n > 0; --n) {
            const Candidate c = heap_[n];
            heap_[n] = heap_[0];
            sink(c, n);
        }
    }

  private:
    void sink(Candidate c, std::int64_t n) {  // from the top of a heap of n
        std::int64_t i = 0;
        for (std::int64_t child = 1; child < n; child = 2 * i + 1) {
            if (child + 1 < n && before(heap_[child], heap_[child + 1])) ++child;
            if (!before(c, heap_[child])) break;
            heap_[i] = heap_[child];
            i = child;
        }
        heap_[i] = c;
    }

    Candidate* heap_;
    std::int64_t capacity_, size_;
};

// Results are made of kParts partial sums, added in one fixed order and never fused, so that every instruction
// set gives the same bits. Rows are padded with zeros to whole parts.
constexpr int kParts = 16;

VSAD_HD std::int64_t pad_row(std::int64_t C) { return (C + kParts - 1) / kParts * kParts; }

template <typename T>
struct Parts {
    static constexpr int kVectors = kParts / kLanes<T>;
    Vector<T> part[kVectors] = {};

    void add_square(const T* x, const T* y) {  // of a difference
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
        sums.add_square(wide, zeros);
    }
    return sums.sum();
}

// A row in the compute dtype, of unit length for the cosine. A row without length stays zero.
template <typename Element, typename T>
void load_row(T* to, const Matrix& m, std::int64_t row, std::int64_t C, Metric metric) {
    const Element* from = reinterpret_cast<const Element*>(m.data) + row * m.row;
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

// The squared distance by direct difference: what every result is made of.
template <typename T>
T direct_distance(const T* x, const T* y, std::int64_t padded) {
    Parts<T> sums;
    for (std::int64_t c = 0; c < padded; c += kParts) sums.add_square(x + c, y + c);
    return sums.sum();
}

// The same from one row to kTogether others.
constexpr int kTogether = kVectorBytes / 8;  // their sums stay in registers
template <typename T>
void direct_distances(T* to, const T* row, const T* others, std::int64_t padded) {
    Parts<T> sums[kTogether];
    for (std::int64_t c = 0; c < padded; c += kParts)
        for (int i = 0; i < kTogether; ++i) sums[i].add_square(row + c, others + i * padded + c);
    for (int i = 0; i < kTogether; ++i) to[i] = sums[i].sum();
}

// At most how far it is off the true squared distance, relative to that; and absolutely, by underflow.
VSAD_HD double direct_error(std::int64_t C, double unit) { return (double(C) / kParts + 16) * unit; }

// A zero row has no direction: its cosine distance is 1, that is 2 as half a squared distance between unit
// rows.
template <typename T>
bool is_zero(const T* row, std::int64_t padded) {
    for (std::int64_t c = 0; c < padded; ++c)
        if (row[c] != 0) return false;
    return true;
}

// Some loaded prototypes, measured against loaded features in turn.
template <typename T>
struct RowTile {
    T* rows;  // kTogether of them
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

    void measure(Best& best, const T* feature, Metric metric) const {
        T squared[kTogether];
        direct_distances(squared, feature, rows, padded);
        const bool nowhere = metric == Metric::cosine && is_zero(feature, padded);
        for (int i = 0; i < count; ++i) best.push({key_of(zero[i] || nowhere ? T(2) : squared[i]), indices[i]});
    }
};

// Measures some rows against the prototypes that `index(begin..end)` names.
template <typename Element, typename T, typename Index>
void measure_all(const DistanceArguments& a, T* tile_memory, std::int64_t begin, std::int64_t end, Index index,
                 const T* rows, std::int64_t count, Best* nearest) {
    const std::int64_t padded = pad_row(a.C);
    RowTile<T> tile(tile_memory, padded);
    for (std::int64_t p = begin; p < end; ++p) {
        tile.template add<Element>(a, index(p));
        if (!tile.full() && p + 1 < end) continue;
        for (std::int64_t i = 0; i < count; ++i) tile.measure(nearest[i], rows + i * padded, a.metric);
        tile.count = 0;
    }
}

// Writes the sorted best of one feature as distances and indices.
template <typename Element>
void write_row(const DistanceArguments& a, std::int64_t row, const Best& best) {
    using T = typename Compute<Element>::type;
    for (std::int64_t i = 0; i < a.k; ++i) {
        const T squared = value_of<T>(best[i].key);
        const T distance = a.metric == Metric::euclidean ? T(__builtin_sqrt(squared))
                           : a.metric == Metric::cosine  ? squared / 2
                                                         : squared;
        static_cast<Element*>(a.distances)[row * a.k + i] = narrow<Element>(distance);
        a.indices[row * a.k + i] = best[i].index;
    }
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad

// Defines what the binding calls from the Items<Element> of a source.
#define VSAD_BY_DTYPE(name, what, Arguments)     \
    Work name(const Arguments& a) {              \
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
