// Packing a bank: what class each prototype is of, then blocks of regular ones with what bounds them.
#include "prototype_distance/cpu/kernels.h"
#include "prototype_distance/cpu/round.h"
#include "prototype_distance/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kClassified = 256;  // prototypes an item
constexpr std::int64_t kPacked = 16;       // blocks an item

template <typename T>
Class class_of(const T* row, std::int64_t C, Metric metric) {
    std::int32_t nans = 0, unbounded = 0, others = 0;  // counted, so that the loop becomes vector code
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
    float* centred = arena.take<float>(pad_row(a.C));
    for (std::int64_t p = item * kClassified; p < lesser(a.P, (item + 1) * kClassified); ++p) {
        load_row<Element>(row, a.prototypes, p, a.C, a.metric);
        Class is = class_of(row, a.C, a.metric);
        center_row(centred, row, a.bank.center, a.C);
        if (is == Class::regular && !(squared_length(centred, pad_row(a.C)) < kHuge)) is = Class::huge;
        a.classes[p] = std::int8_t(is);
        a.largest[p] = largest_of(centred, pad_row(a.C));
    }
}

// One prototype's place in a block: its offset, and the largest square and radius.
void bound(double squared, double radius, float& offset, float& square, float& largest_radius) {
    offset = float(squared / 2);
    square = greater(square, round_up_to_float(squared));
    largest_radius = greater(largest_radius, round_up_to_float(radius));
}

template <typename Element>
void pack_block(const DistanceArguments& a, std::int64_t block, typename Compute<Element>::type* row, float* centred,
                std::int8_t* bytes) {
    const Bank& bank = a.bank;
    const Int8Blocks& to = bank.int8;
    const std::int64_t first = block * kBlock, count = lesser<std::int64_t>(kBlock, bank.count[regular] - first);
    const std::int64_t steps = (a.C + kStep - 1) / kStep, padded = pad_row(a.C);
    bank.square[block] = bank.radius[block] = 0;
    float scale = 0;
    for (int i = 0; i < count; ++i) scale = greater(scale, a.largest[bank.index[first + i]] / 127);
    if (to.tiles) {
        to.scale[block] = scale = scale < kLeastScale ? 0 : scale;
        bank.square8[block] = bank.radius8[block] = 0;
    }
    for (int i = 0; i < kBlock; ++i) {
        const std::int64_t at = first + i;
        if (i >= count) {
            bank.offset[at] = __builtin_inff();
            if (!to.tiles) continue;
            to.offset[at] = kPadding;
            to.bias[at] = 0;
            for (std::int64_t c = 0; c < steps * kStep; ++c)
                to.tiles[((block * steps + c / kStep) * kBlock + i) * kStep + c % kStep] = 0;
            continue;
        }
        load_row<Element>(row, a.prototypes, bank.index[at], a.C, a.metric);
        center_row(centred, row, bank.center, a.C);
        const double squared = squared_length(centred, padded), radius = kCenterError * __builtin_sqrt(squared);
        bound(squared, radius, bank.offset[at], bank.square[block], bank.radius[block]);
        if (!to.tiles) continue;
        const Rounded r = round_row(bytes, centred, scale, padded);
        for (std::int64_t c = padded; c < steps * kStep; ++c) bytes[c] = 0;
        bound(r.squared, r.radius(squared, a.C) + radius, to.offset[at], bank.square8[block], bank.radius8[block]);
        to.bias[at] = -128 * r.sum;
        for (std::int64_t step = 0; step < steps; ++step)
            __builtin_memcpy(to.tiles + ((block * steps + step) * kBlock + i) * kStep, bytes + step * kStep, kStep);
    }
}

template <typename Element>
void pack_item(const void* arguments, std::int64_t item, char* scratch) {
    using T = typename Compute<Element>::type;
    const DistanceArguments& a = *static_cast<const DistanceArguments*>(arguments);
    Arena arena(scratch);
    T* row = arena.take<T>(pad_row(a.C));
    float* centred = arena.take<float>(pad_row(a.C));
    std::int8_t* bytes = arena.take<std::int8_t>(a.C + kStep);
    for (std::int64_t block = item * kPacked; block < lesser(a.bank.blocks, (item + 1) * kPacked); ++block)
        pack_block<Element>(a, block, row, centred, bytes);
}

template <typename Element>
struct Items {
    static std::int64_t bytes(const DistanceArguments& a) {
        return pad_row(a.C) * std::int64_t(sizeof(typename Compute<Element>::type) + sizeof(float)) + a.C + 4 * kStep;
    }
    static Work classify(const DistanceArguments& a) {
        return {(a.P + kClassified - 1) / kClassified, a.threads, bytes(a), &classify_item<Element>};
    }
    static Work pack(const DistanceArguments& a) {
        return {(a.bank.blocks + kPacked - 1) / kPacked, a.threads, bytes(a), &pack_item<Element>};
    }
};

}  // namespace

VSAD_BY_DTYPE(distance_classify, classify, DistanceArguments)
VSAD_BY_DTYPE(distance_pack, pack, DistanceArguments)

}  // namespace VSAD_ISA
}  // namespace vsad
