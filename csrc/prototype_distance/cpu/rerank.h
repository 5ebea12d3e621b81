// Re-ranking the candidate blocks of a screened tile: what may be near is measured by direct difference.
#pragma once

#include "prototype_distance/cpu/screen.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// A row to measure with: where it lies if its memory can be read as it is, else loaded into `memory`.
template <typename Element>
inline auto Screen<Element>::row_at(const Matrix& m, std::int64_t index, T* memory) -> const T* {
    if constexpr (sizeof(Element) == sizeof(T))
        if (a.metric != Metric::cosine && m.column == 1 && a.C % kParts == 0)
            return static_cast<const T*>(m.data) + index * m.row;
    load_row<Element>(memory, m, index, a.C, a.metric);
    return memory;
}

template <typename Element>
inline void Screen<Element>::load_feature(std::int64_t index) {
    if (feature_in_use == index) return;
    feature = row_at(a.features, index, row);
    feature_in_use = index;
}

template <typename Element>
inline auto Screen<Element>::squared_to(std::int64_t index) -> T {
    return direct_distance(feature, row_at(a.prototypes, index, other), pad_row(a.C));
}

template <typename Element>
inline std::uint64_t Screen<Element>::key_to(std::int64_t index) {
    const T distance = squared_to(index);
    return key_of(a.metric == Metric::cosine && is_zero(other, pad_row(a.C)) ? T(2) : distance);
}

// Measures the prototype in a slot of the blocks against row i, and lowers its reach.
template <typename Element>
inline void Screen<Element>::measure(std::int64_t i, std::int64_t slot) {
    const std::int64_t index = a.bank.index[slot];
    load_feature(first + id[i]);
    const std::uint64_t key = key_of(squared_to(index));
    Nearest& mine = nearest[id[i]];
    ++work[i];
    if (mine.full() && key > mine.farthest().key) return;
    mine.push({key, index});
    if (!mine.full()) return;
    const double farthest = double(value_of<T>(mine.farthest().key));
    const float now = round_up_to_float(__builtin_sqrt((farthest + double(underflow)) / (1 - error)));
    if (now < reach[i]) reach[i] = now;
}

// Measures the prototype that an int8 minimum names.
template <typename Element>
inline void Screen<Element>::measure_named(std::int64_t i, CandidateBlock& c) {
    const std::int64_t slot = c.block() * std::int64_t(kBlock) + c.place();
    if (!in_int8 || c.measured()) return;
    c.mark = ~c.mark;
    if (slot < a.bank.count[regular]) measure(i, slot);
}

// Measures the named prototypes of the k nearest candidate blocks, which gives a tight bound on the k-th distance.
template <typename Element>
inline void Screen<Element>::measure_nearest(std::int64_t i) {
    CandidateBlock* mine = candidates + i * kCandidates;
    Nearest order(sorted, lesser(a.k, kCandidates));
    for (std::int32_t n = 0; n < candidate_count[i]; ++n) order.push({key_of(mine[n].minimum), n});
    for (std::int64_t n = 0; n < order.size(); ++n) measure_named(i, mine[order[n].index]);
}

// Measures what may be near in a block. In int8 the dot products are computed once more, because screening kept only
// the smallest value, and the prototype at place `done` was measured before.
template <typename Element>
inline void Screen<Element>::rerank_block(std::int64_t i, std::int64_t block, int done) {
    const Bank& bank = a.bank;
    const std::int64_t slot = block * kBlock, left = greater<std::int64_t>(0, bank.count[regular] - slot),
                       count = lesser<std::int64_t>(kBlock, left);
    ++work[i];
    if (!in_int8) {
        for (int j = 0; j < count; ++j) measure(i, slot + j);
        return;
    }
    std::int32_t dots[kBlock];
    float score[kBlock];
    a.int8->dots(rows_int8 + i * steps * kStep, bank.int8, block, steps, dots);
    const float unit = scale[i] * bank.int8.scale[block];
    for (int j = 0; j < kBlock; ++j) score[j] = bank.int8.offset[slot + j] - unit * float(dots[j]);
    const auto most = [&] { return limit(i, bank.squared_int8[block], bank.radius_int8[block]); };
    const Vector<float> now = broadcast(most());
    std::uint32_t mask = 0;
    for (int j = 0; j < kBlock; j += kLanes<float>) mask |= lanes_at_most(load(score + j), now) << j;
    mask &= ((1u << count) - 1) & ~(1u << done);
    for (; mask; mask &= mask - 1) {
        const int j = __builtin_ctz(mask);
        if (score[j] <= most()) measure(i, slot + j);  // the limit falls while prototypes are measured
    }
}

template <typename Element>
inline void Screen<Element>::rerank_candidate(std::int64_t i, CandidateBlock& c) {
    if (beyond(i, c)) return;
    measure_named(i, c);
    rerank_block(i, c.block(), c.place());
}

// Re-ranks the candidates of row i, the nearest first.
template <typename Element>
inline void Screen<Element>::rerank(std::int64_t i) {
    CandidateBlock* mine = candidates + i * kCandidates;
    Nearest order(sorted, kCandidates);
    for (std::int32_t n = 0; n < candidate_count[i]; ++n) order.push({key_of(mine[n].minimum), n});
    order.sort();
    for (std::int64_t n = 0; n < order.size(); ++n) rerank_candidate(i, mine[order[n].index]);
    candidate_count[i] = 0;
}

// Re-ranks the candidates of all rows; in int8 block by block, so that rows share what they read.
template <typename Element>
inline void Screen<Element>::rerank_all(std::int64_t begin, std::int64_t end) {
    Patience patience(kCandidates * kBlock * a.C / 8);  // few candidates are still near enough
    for (std::int64_t i = 0; i < rows; ++i) {
        if (patience.ends()) return;
        next[i] = 0;
        drop_candidates_beyond(i);
        in_int8 ? measure_nearest(i) : rerank(i);
    }
    for (std::int64_t stop = begin + kShared; stop < end + kShared; stop += kShared)
        for (std::int64_t i = 0; i < rows; ++i)
            for (CandidateBlock* mine = candidates + i * kCandidates; next[i] < candidate_count[i]; ++next[i]) {
                if (mine[next[i]].block() >= stop) break;
                if (patience.ends()) return;
                rerank_candidate(i, mine[next[i]]);
            }
}

template <typename Element>
inline void Screen<Element>::drop_candidates_beyond(std::int64_t i) {
    CandidateBlock* mine = candidates + i * kCandidates;
    std::int32_t kept = 0;
    for (std::int32_t n = 0; n < candidate_count[i]; ++n)
        if (!beyond(i, mine[n])) mine[kept++] = mine[n];
    candidate_count[i] = kept;
}

// Makes room for another candidate of row i. A row that measures more than its budget is given up: another pass costs
// less.
template <typename Element>
inline void Screen<Element>::make_room(std::int64_t i) {
    drop_candidates_beyond(i);
    if (in_int8 && candidate_count[i] > kCandidates / 2) {
        measure_nearest(i);
        drop_candidates_beyond(i);
    }
    if (candidate_count[i] <= kCandidates * 3 / 4) return;
    rerank(i);
    if (work[i] <= budget) return;
    dead[i] = -__builtin_inff();
    give_up(id[i]);
}

// Adds a candidate block to row i. Its upper bound lowers the row's reach: k different prototypes are no farther than
// the upper bounds of k blocks. For k = 1 find_candidates has lowered it already.
template <typename Element>
inline void Screen<Element>::add_candidate(std::int64_t i, CandidateBlock c) {
    if (candidate_count[i] == kCandidates) make_room(i);
    if (!alive(i)) return;
    candidates[i * kCandidates + candidate_count[i]++] = c;
    if (a.k == 1) return;
    const float off = slack * (squared[i] + block_squared()[c.block()]) + underflow;
    const float D = __builtin_sqrtf(greater(0.0f, 2 * c.minimum + squared[i] + off));
    add_upper_bound(i, (D + radius[i] + block_radius()[c.block()]) * grow + tiny);
}

// Keeps the k smallest upper bounds of row i in ascending order.
template <typename Element>
inline void Screen<Element>::add_upper_bound(std::int64_t i, float upper) {
    const std::int64_t k = a.k;
    float* mine = upper_bounds + i * k;
    std::int32_t n = upper_bound_count[i];
    if (n == k) {
        if (!(upper < mine[k - 1])) return;
        --n;
    } else {
        ++upper_bound_count[i];
    }
    for (; n > 0 && mine[n - 1] > upper; --n) mine[n] = mine[n - 1];
    mine[n] = upper;
    if (upper_bound_count[i] == k && mine[k - 1] < reach[i]) reach[i] = mine[k - 1];
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
