// The k nearest prototypes of a feature, as a heap of keys that order as distances do.
#pragma once

#include "prototype_distance/cpu/kernels.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kPerNeighbor = 256;  // sorting a neighbor costs about as much as so many multiply-adds

// Unsigned integers that order as floats do, with NaN above infinity. The sign of NaN is dropped.
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

VSAD_HD bool before(const Neighbor& a, const Neighbor& b) {
    return a.key < b.key || (a.key == b.key && a.index < b.index);
}

// The `capacity` nearest of all neighbors that were pushed: a heap with the farthest of them on top.
class Nearest {
  public:
    // `size` neighbors may stand in the memory already, as an earlier heap left them.
    Nearest(Neighbor* memory, std::int64_t capacity, std::int64_t size = 0)
        : heap_(memory), capacity_(capacity), size_(size) {}

    std::int64_t size() const { return size_; }
    bool full() const { return size_ == capacity_; }
    const Neighbor& farthest() const { return heap_[0]; }
    const Neighbor& operator[](std::int64_t i) const { return heap_[i]; }

    void clear() { size_ = 0; }

    void push(Neighbor c) {
        if (!full()) {
            std::int64_t i = size_++;
            for (; i > 0 && before(heap_[(i - 1) / 2], c); i = (i - 1) / 2) heap_[i] = heap_[(i - 1) / 2];
            heap_[i] = c;
        } else if (before(c, farthest())) {
            sink(c, size_);
        }
    }

    // Fills the heap with entries that order after every prototype.
    void fill_up() {
        while (!full()) push({~std::uint64_t(0), INT64_MAX});
    }

    // Puts the neighbors in ascending order; nothing may be pushed afterwards.
    void sort() {
        for (std::int64_t n = size_ - 1; n > 0; --n) {
            const Neighbor c = heap_[n];
            heap_[n] = heap_[0];
            sink(c, n);
        }
    }

  private:
    // Sinks c from the top of a heap of n.
    void sink(Neighbor c, std::int64_t n) {
        std::int64_t i = 0;
        for (std::int64_t child = 1; child < n; child = 2 * i + 1) {
            if (child + 1 < n && before(heap_[child], heap_[child + 1])) ++child;
            if (!before(c, heap_[child])) break;
            heap_[i] = heap_[child];
            i = child;
        }
        heap_[i] = c;
    }

    Neighbor* heap_;
    std::int64_t capacity_, size_;
};

// Writes the sorted neighbors of one feature as distances and indices.
template <typename Element>
void write_row(const DistanceArguments& a, std::int64_t row, const Nearest& nearest) {
    using T = typename Compute<Element>::type;
    for (std::int64_t i = 0; i < a.k; ++i) {
        const T squared = value_of<T>(nearest[i].key);
        const T distance = a.metric == Metric::euclidean ? T(__builtin_sqrt(squared))
                           : a.metric == Metric::cosine  ? squared / 2
                                                         : squared;
        static_cast<Element*>(a.distances)[row * a.k + i] = narrow<Element>(distance);
        a.indices[row * a.k + i] = nearest[i].index;
    }
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
