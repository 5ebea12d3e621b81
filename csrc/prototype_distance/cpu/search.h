// How a call runs on the CPU: where a bank lies in memory, how it is packed, and which passes search it. Compiled into
// the module, not per instruction set.
#pragma once
#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/arena.h"
#include "cpu/call.h"
#include "prototype_distance/cpu/kernels.h"

namespace vsad {
namespace {

constexpr std::int64_t kMostChannels = 1 << 16;      // with at most these, a dot product of int8 codes fits int32
constexpr std::int64_t kMostPrototypes = INT32_MAX;  // the bank's indices are int32
constexpr std::int64_t kMostPacked = 48 << 20;       // bytes of an int8 bank that is packed for one call only
constexpr std::int64_t kFewestFeatures = 32;         // with fewer, packing the bank costs more than it saves
constexpr std::int64_t kFewestPerNeighbor = 8;       // prototypes per neighbor: with fewer, most blocks are candidates

constexpr std::int64_t kRandomAccess = 256;              // costs about as much as so many multiply-adds
constexpr std::int64_t kComparison = 2 * kRandomAccess;  // of two prototypes

// Blocks that hold P prototypes; int8 screens them in pairs.
inline std::int64_t blocks_for(std::int64_t P) { return ((P + kBlock - 1) / kBlock + 1) / 2 * 2; }

// Lays out a bank for P prototypes from `memory` on; null only counts the bytes.
inline Bank lay_out_bank(char* memory, std::int64_t P, std::int64_t C, bool int8) {
    Bank bank{};
    bank.P = P;
    bank.C = C;
    const std::int64_t blocks = blocks_for(P), steps = (C + kStep - 1) / kStep;
    portable::Arena arena(memory);
    bank.count = arena.take<std::int64_t>(kClasses);
    bank.center = arena.take<float>(C);
    bank.index = arena.take<std::int32_t>(P);
    bank.offset = arena.take<float>(blocks * kBlock);
    bank.squared = arena.take<float>(blocks);
    bank.radius = arena.take<float>(blocks);
    if (int8) {
        bank.int8.scale = arena.take<float>(blocks);
        bank.int8.offset = arena.take<float>(blocks * kBlock);
        bank.int8.bias = arena.take<std::int32_t>(blocks * kBlock);
        bank.squared_int8 = arena.take<float>(blocks);
        bank.radius_int8 = arena.take<float>(blocks);
        bank.int8.tiles = arena.take<std::int8_t>(blocks * kBlock * steps * kStep);
    }
    bank.bytes = arena.used();
    if (memory) bank.blocks = blocks_for(std::clamp<std::int64_t>(bank.count[regular], 0, P));
    return bank;
}

// Throws where what the search follows would lead out of the bank: its bytes may be anything.
inline void check_bank(const Bank& bank) {
    bool inside = true;
    std::int64_t left = bank.P;
    for (int i = 0; i < kClasses; ++i) {
        inside = inside && bank.count[i] >= 0 && bank.count[i] <= left;
        left -= inside ? bank.count[i] : 0;
    }
    for (std::int64_t p = 0; p < bank.P; ++p) inside &= std::uint32_t(bank.index[p]) < std::uint32_t(bank.P);
    if (!inside || left) {
        throw std::invalid_argument(
            "prototype_distance: packed must be what pack_prototypes made of the prototypes, got other bytes; pack "
            "them anew");
    }
}

inline bool can_pack(std::int64_t P, std::int64_t C) { return P <= kMostPrototypes && C > 0 && C <= kMostChannels; }

// Packs the prototypes around `center` into fresh `memory`.
inline void pack(DistanceArguments& a, char* memory, const float* center, bool int8) {
    a.bank = lay_out_bank(memory, a.P, a.C, int8);
    std::copy_n(center, a.C, a.bank.center);
    std::vector<float> largest(a.P);
    std::vector<std::int8_t> classes(a.P);
    a.largest = largest.data();
    a.classes = classes.data();
    run_parallel(VSAD_CHOOSE(distance_classify)(a), &a);
    std::fill_n(a.bank.count, int(kClasses), 0);
    for (const std::int8_t is : classes) ++a.bank.count[is];
    std::iota(a.bank.index, a.bank.index + a.P, 0);
    Patience patience(kComparison);
    std::sort(a.bank.index, a.bank.index + a.P, [&](std::int32_t i, std::int32_t j) {
        if (patience.ends()) throw_if_abandoned();
        if (classes[i] != classes[j]) return classes[i] < classes[j];
        return classes[i] == regular && largest[i] != largest[j] ? largest[i] < largest[j] : i < j;
    });
    a.bank = lay_out_bank(memory, a.P, a.C, int8);  // the number of blocks follows from the counts
    run_parallel(VSAD_CHOOSE(distance_pack)(a), &a);
}

// Searches a packed bank. `int8` is null where the bank is to be screened in float32.
inline void screened_search(DistanceArguments& a, const Int8Kernels* int8) {
    a.int8 = int8;
    a.rows = VSAD_CHOOSE(distance_tile_rows)(a);
    const std::int64_t tiles = (a.M + a.rows - 1) / a.rows;
    a.splits = tiles % a.threads == 0 || tiles >= 4 * a.threads ? 1 : a.threads;
    a.splits = std::max<std::int64_t>(1, std::min(a.splits, a.bank.blocks / 32));
    std::vector<Neighbor> partial(a.splits > 1 ? a.splits * a.M * a.k : 0);
    a.partial = a.splits > 1 ? partial.data() : nullptr;
    run_parallel(VSAD_CHOOSE(distance_screened_search)(a), &a);
    if (a.splits > 1) run_parallel(VSAD_CHOOSE(distance_merge_splits)(a), &a);
}

inline void brute_force(DistanceArguments& a) {
    // Few features leave threads idle unless the bank is split; a split holds at least k prototypes.
    const std::int64_t tiles = std::max<std::int64_t>(1, (a.M + kBruteForceRows - 1) / kBruteForceRows);
    const std::int64_t most = a.P / std::max<std::int64_t>(a.k, 256);
    a.splits = std::max<std::int64_t>(1, std::min<std::int64_t>(2 * a.threads / tiles, most));
    std::vector<Neighbor> partial(a.splits * a.M * a.k);
    a.partial = partial.data();
    run_parallel(VSAD_CHOOSE(distance_brute_force)(a), &a);
    run_parallel(VSAD_CHOOSE(distance_merge_splits)(a), &a);
}

// Whether a packed bank would be read.
inline bool screens(const DistanceOperands& a) {
    return can_pack(a.P, a.C) && kFewestPerNeighbor * a.k <= a.P && a.M > 0;
}

// Whether it is worth packing the bank for one call.
inline bool packs(const DistanceOperands& a) { return screens(a) && a.M >= kFewestFeatures; }

// Finds the nearest prototypes. `packed` is null, or a bank that `pack` made of the same prototypes with int8; `center`
// is needed where the call `packs` one itself.
inline void search(DistanceArguments& a, char* packed, const float* center) {
    if (packed ? !screens(a) : !packs(a)) return brute_force(a);
    const Int8Kernels* int8 = int8_kernels();
    std::unique_ptr<char[]> memory;
    if (packed) {
        a.bank = lay_out_bank(packed, a.P, a.C, true);
        check_bank(a.bank);
    } else {
        if (lay_out_bank(nullptr, a.P, a.C, true).bytes > kMostPacked) int8 = nullptr;
        memory.reset(new char[lay_out_bank(nullptr, a.P, a.C, int8).bytes]);
        pack(a, memory.get(), center, int8);
    }
    screened_search(a, int8);
}

inline void backward(DistanceGradientArguments& a) {
    const std::int64_t pairs = a.M * a.k, bytes_per_weight = a.dtype == Scalar::float64 ? 8 : 4;
    for (std::int64_t n = 0; n < pairs; ++n) {
        if (a.indices[n] >= 0 && a.indices[n] < a.P) continue;
        throw std::invalid_argument("prototype_distance: saved_indices must lie in [0, P=" + std::to_string(a.P) +
                                    "), got " + std::to_string(a.indices[n]));
    }
    std::vector<char> weights(2 * bytes_per_weight * pairs);
    a.weights = weights.data();
    run_parallel(VSAD_CHOOSE(distance_grad_features)(a), &a);
    if (!a.grad_prototypes) return;
    // Sorts the pairs by prototype, in the order of the features.
    std::vector<std::int64_t> begin(a.P + 1), sorted_pairs(pairs);
    Patience patience(kRandomAccess);
    for (std::int64_t n = 0; n < pairs; ++n) {
        if (patience.ends()) throw_if_abandoned();
        ++begin[a.indices[n]];
    }
    std::exclusive_scan(begin.begin(), begin.end(), begin.begin(), std::int64_t(0));
    std::vector<std::int64_t> next(begin);
    for (std::int64_t n = 0; n < pairs; ++n) {
        if (patience.ends()) throw_if_abandoned();
        sorted_pairs[next[a.indices[n]]++] = n;
    }
    a.begin = begin.data();
    a.sorted_pairs = sorted_pairs.data();
    run_parallel(VSAD_CHOOSE(distance_grad_prototypes)(a), &a);
}

}  // namespace
}  // namespace vsad
