// Packs a bank: the class of each prototype, then blocks of regular ones with bounds on their rounding.
#include "prototype_distance/cpu/kernels.h"
#include "prototype_distance/cpu/quantize.h"
#include "prototype_distance/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kClassifiedPerItem = 256;  // prototypes
constexpr std::int64_t kBlocksPerItem = 16;

template <typename T>
Class class_of(const T* row, std::int64_t C, Metric metric) {
    std::int32_t nans = 0, unbounded = 0, others = 0;  // counted rather than tested, so that the loop vectorizes
    for (std::int64_t c = 0; c < C; ++c) {
        nans += row[c] != row[c];
        unbounded += row[c] - row[c] != 0;
        others += row[c] != 0;
    }
    if (nans) return Class::nan;
    if (unbounded) return Class::infinite;
    return metric == Metric::cosine && !others ? Class::zero : Class::regular;
}

template <typename Element>
void classify_item(const void* arguments, std::int64_t item, char* scratch) {
    using T = typename Compute<Element>::type;
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    Arena arena(scratch);
    T* row = arena.take<T>(pad_row(a.C));
    float* centered = arena.take<float>(pad_row(a.C));
    const std::int64_t end = lesser(a.P, (item + 1) * kClassifiedPerItem);
    for (std::int64_t p = item * kClassifiedPerItem; p < end; ++p) {
        load_row<Element>(row, a.prototypes, p, a.C, a.metric);
        Class is = class_of(row, a.C, a.metric);
        center_row(centered, row, a.bank.center, a.C);
        if (is == Class::regular && !(squared_length(centered, pad_row(a.C)) < kHuge)) is = Class::huge;
        a.classes[p] = std::int8_t(is);
        a.largest[p] = largest_of(centered, pad_row(a.C));
    }
}

// Scratch for one prototype.
template <typename T>
struct Scratch {
    T* row;
    float* centered;
    std::int8_t* codes;

    Scratch(Arena& arena, const DistanceArguments& a)
        : row(arena.take<T>(pad_row(a.C))),
          centered(arena.take<float>(pad_row(a.C))),
          codes(arena.take<std::int8_t>(a.C + kStep)) {}
};

// Stores the offset of one prototype, and raises its block's bounds on |p|^2 and on the rounding of p.
void store_bounds(double squared, double radius, float& offset, float& largest_squared, float& largest_radius) {
    offset = float(squared / 2);
    largest_squared = greater(largest_squared, round_up_to_float(squared));
    largest_radius = greater(largest_radius, round_up_to_float(radius));
}

// Fills place i of a block, past the last prototype, with what is never near.
void pad_place(const Bank& bank, std::int64_t block, int i, std::int64_t steps) {
    const Int8Blocks& to = bank.int8;
    const std::int64_t at = block * kBlock + i;
    bank.offset[at] = __builtin_inff();
    if (!to.tiles) return;
    to.offset[at] = kPadding;
    to.bias[at] = 0;
    for (std::int64_t step = 0; step < steps; ++step)
        __builtin_memset(to.tiles + ((block * steps + step) * kBlock + i) * kStep, 0, kStep);
}

// Packs a prototype into place i of a block; `scale` is the value of the block's int8 step.
template <typename Element>
void pack_prototype(const DistanceArguments& a, const Scratch<typename Compute<Element>::type>& s, std::int64_t block,
                    int i, float scale) {
    const Bank& bank = a.bank;
    const Int8Blocks& to = bank.int8;
    const std::int64_t steps = (a.C + kStep - 1) / kStep, padded = pad_row(a.C), at = block * kBlock + i;
    load_row<Element>(s.row, a.prototypes, bank.index[at], a.C, a.metric);
    center_row(s.centered, s.row, bank.center, a.C);
    const double squared = squared_length(s.centered, padded), radius = kCenterError * __builtin_sqrt(squared);
    store_bounds(squared, radius, bank.offset[at], bank.squared[block], bank.radius[block]);
    if (!to.tiles) return;
    const Quantized q = quantize_row(s.codes, s.centered, scale, padded);
    for (std::int64_t c = padded; c < steps * kStep; ++c) s.codes[c] = 0;
    store_bounds(q.squared, q.radius(squared, a.C) + radius, to.offset[at], bank.squared_int8[block],
                 bank.radius_int8[block]);
    to.bias[at] = -128 * q.sum;
    for (std::int64_t step = 0; step < steps; ++step)
        __builtin_memcpy(to.tiles + ((block * steps + step) * kBlock + i) * kStep, s.codes + step * kStep, kStep);
}

template <typename Element>
void pack_block(const DistanceArguments& a, const Scratch<typename Compute<Element>::type>& s, std::int64_t block) {
    const Bank& bank = a.bank;
    const std::int64_t first = block * kBlock, count = lesser<std::int64_t>(kBlock, bank.count[regular] - first);
    bank.squared[block] = bank.radius[block] = 0;
    float scale = 0;
    for (int i = 0; i < count; ++i) scale = greater(scale, a.largest[bank.index[first + i]] / 127);
    if (bank.int8.tiles) {
        bank.int8.scale[block] = scale = scale < kLeastScale ? 0 : scale;
        bank.squared_int8[block] = bank.radius_int8[block] = 0;
    }
    for (int i = 0; i < kBlock; ++i)
        if (i < count)
            pack_prototype<Element>(a, s, block, i, scale);
        else
            pad_place(bank, block, i, (a.C + kStep - 1) / kStep);
}

template <typename Element>
void pack_item(const void* arguments, std::int64_t item, char* scratch) {
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    Arena arena(scratch);
    const Scratch<typename Compute<Element>::type> s(arena, a);
    const std::int64_t end = lesser(a.bank.blocks, (item + 1) * kBlocksPerItem);
    for (std::int64_t block = item * kBlocksPerItem; block < end; ++block) pack_block<Element>(a, s, block);
}

template <typename Element>
struct Items {
    static std::int64_t bytes(const DistanceArguments& a) {
        Arena arena(nullptr);
        Scratch<typename Compute<Element>::type>(arena, a);
        return arena.used();
    }
    static Work classify(const DistanceArguments& a) {
        return {(a.P + kClassifiedPerItem - 1) / kClassifiedPerItem, a.threads, bytes(a), &classify_item<Element>};
    }
    static Work pack(const DistanceArguments& a) {
        return {(a.bank.blocks + kBlocksPerItem - 1) / kBlocksPerItem, a.threads, bytes(a), &pack_item<Element>};
    }
};

}  // namespace

VSAD_BY_DTYPE(distance_classify, classify, DistanceArguments)
VSAD_BY_DTYPE(distance_pack, pack, DistanceArguments)

}  // namespace VSAD_ISA
}  // namespace vsad
