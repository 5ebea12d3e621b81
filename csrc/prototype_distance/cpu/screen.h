// The state of screening a tile of features: what they are rounded to, how far their k-th nearest prototype is at
// most, and the blocks that may hold something nearer.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "prototype_distance/cpu/float.h"
#include "prototype_distance/cpu/kernels.h"
#include "prototype_distance/cpu/round.h"
#include "prototype_distance/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kChunk = 64;     // blocks between two looks at their minima
constexpr std::int64_t kShared = 8;     // blocks, with the rows they were made of, that the cache holds
constexpr std::int64_t kPending = 192;  // blocks that a feature remembers until it examines them
constexpr float kSafe = 1 + 0x1p-20f;   // covers the rounding of a few operations on bounds

struct Pending {
    float minimum;
    std::int32_t mark;  // the block, or its complement once the prototype that the minimum names is measured

    bool named() const { return mark < 0; }
    std::int32_t block() const { return mark < 0 ? ~mark : mark; }
    int place() const { return int(bit_cast<std::uint32_t>(minimum) & kPlace); }
};

// Which lanes of a are at most b's.
VSAD_HD std::uint32_t lanes_at_most(Vector<float> a, Vector<float> b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_LE_OQ);
#elif defined(__AVX__)
    return std::uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(__m256(a), __m256(b), _CMP_LE_OQ)));
#elif defined(__SSE2__)
    return std::uint32_t(_mm_movemask_ps(_mm_cmple_ps(__m128(a), __m128(b))));
#else
    std::uint32_t mask = 0;
    for (int i = 0; i < kLanes<float>; ++i) mask |= std::uint32_t(a[i] <= b[i]) << i;
    return mask;
#endif
}

template <typename Element>
struct Screen {
    using T = typename Compute<Element>::type;

    // of the rows being screened
    std::uint8_t *panels8, *rows8;
    float *panels, *scale, *square, *radius, *reach, *dead, *minima, *uppers;
    std::int64_t* id;
    std::int32_t *pending_count, *upper_count, *work, *next;
    Pending* pending;
    Candidate *sorted, *candidates;
    // of all rows of the tile
    Best *nearest, *brute_nearest;
    std::int64_t *ids[2], *hard;
    bool* measured;
    // one row, one block
    const T* feature = nullptr;
    T *row, *other, *brute, *brute_tile;
    float *centred, *panel, *tile;
    std::int8_t* rounded;

    std::int64_t steps, float_rows, rows = 0, padded_rows = 0, hard_count = 0, first = 0, feature_in_use = -1,
                                    budget = 0;
    bool bytes = false;
    double error;                        // of direct differences, relative
    float slack, underflow, grow, tiny;  // see start

    Screen(Arena& arena, const DistanceArguments& a) {
        const std::int64_t most = (a.rows + 95) / 96 * 96, padded = pad_row(a.C);
        steps = (a.C + kStep - 1) / kStep;
        const std::int64_t width = steps * kStep;
        float_rows = a.int8 ? greater<std::int64_t>(96, most / 4 / 96 * 96) : most;
        panels8 = a.int8 ? arena.take<std::uint8_t>(most * width) : nullptr;
        rows8 = a.int8 ? arena.take<std::uint8_t>(most * width) : nullptr;
        panels = arena.take<float>(float_rows * a.C);
        for (float** each : {&scale, &square, &radius, &reach, &dead}) *each = arena.take<float>(most);
        minima = arena.take<float>(most * kChunk);
        uppers = arena.take<float>(a.k > 1 ? most * a.k : 0);
        id = arena.take<std::int64_t>(most);
        for (std::int32_t** each : {&pending_count, &upper_count, &work, &next}) *each = arena.take<std::int32_t>(most);
        pending = arena.take<Pending>(most * kPending);
        sorted = arena.take<Candidate>(kPending);
        candidates = arena.take<Candidate>(a.candidates ? 0 : most * a.k);
        nearest = arena.take<Best>(most);
        brute_nearest = arena.take<Best>(kBruteRows);
        for (std::int64_t** each : {&ids[0], &ids[1], &hard}) *each = arena.take<std::int64_t>(most);
        measured = arena.take<bool>(most);
        row = arena.take<T>(padded);
        other = arena.take<T>(padded);
        brute = arena.take<T>(kBruteRows * padded);
        brute_tile = arena.take<T>(kTogether * padded);
        centred = arena.take<float>(width);
        panel = arena.take<float>(padded * kBlock);
        tile = arena.take<float>(kLanes<float> * padded);
        rounded = arena.take<std::int8_t>(width);
    }

    // The arithmetic's error. D^2 = |f|^2 + 2 (|p|^2 / 2 - <f, p>) is a sum of C products of floats, or of few
    // roundings of exact products of bytes, with a minimum's last bits replaced, so it is off by
    // slack (|f|^2 + |p|^2) at most. A direct difference is off by `error`, relative. Whatever underflows is below
    // `underflow`.
    void start(const DistanceArguments& a, bool in_bytes, std::int64_t first_row, std::int64_t blocks) {
        bytes = in_bytes;
        first = first_row;
        feature_in_use = -1;
        error = direct_error(a.C, kUnit);
        slack = float(bytes ? 4 * kPlace * 0x1p-23 + 32 * kUnit : 2.1 * double(a.C + 16) * kUnit);
        underflow = float(8 * double(a.C + 1) * 0x1p-126);
        grow = float(1 + 2 * error) * kSafe;
        tiny = 2 * __builtin_sqrtf(underflow);
        // Measuring costs some 8 times what screening costs in float32, for each prototype.
        budget = 64 + blocks * kBlock / 16;
    }

    bool alive(std::int64_t i) const { return dead[i] == 0; }
    void give_up(std::int64_t row_of_tile) { hard[hard_count++] = row_of_tile; }

    void add(std::int64_t i, double squared, double off) {
        square[i] = float(squared);
        radius[i] = round_up_to_float(off);
        reach[i] = __builtin_inff();
        dead[i] = 0;
        pending_count[i] = upper_count[i] = work[i] = 0;
        nearest[id[i]].clear();
    }
    void add_bytes(const DistanceArguments& a, std::int64_t i, double squared) {
        const std::int64_t padded = pad_row(a.C), width = steps * kStep;
        const float largest = largest_of(centred, padded) / 127;
        scale[i] = largest < kLeastScale ? 0 : largest;
        const Rounded r = round_row(rounded, centred, scale[i], padded);
        for (std::int64_t c = padded; c < width; ++c) rounded[c] = 0;
        add(i, r.squared, r.radius(squared, a.C) + kCenterError * __builtin_sqrt(squared));
        std::uint8_t* to = rows8 + i * width;
        for (std::int64_t c = 0; c < width; ++c) to[c] = std::uint8_t(rounded[c]) ^ 0x80u;
        put_in_panel(a, i, to, a.int8->is_signed ? 0x80808080u : 0);
    }
    void put_in_panel(const DistanceArguments&, std::int64_t i, const std::uint8_t* from, std::uint32_t flip) {
        const std::int64_t width = steps * kStep;
        std::uint8_t* panel8 = panels8 + (i / kFeatures) * kFeatures * width + i % kFeatures * 4;
        for (std::int64_t c = 0; c < width; c += 4) {
            std::uint32_t four;
            __builtin_memcpy(&four, from + c, 4);
            four ^= flip;
            __builtin_memcpy(panel8 + c * kFeatures, &four, 4);
        }
    }
    void add_floats(const DistanceArguments& a, std::int64_t i, double squared) {
        add(i, squared, kCenterError * __builtin_sqrt(squared));
        float* to = panels + i / kFloatGroup * kFloatGroup * a.C + i % kFloatGroup;
        for (std::int64_t c = 0; c < a.C; ++c) to[c * kFloatGroup] = centred[c];
    }
    void add_nothing(const DistanceArguments& a, std::int64_t i, bool in_bytes) {
        scale[i] = square[i] = radius[i] = reach[i] = 0;
        dead[i] = -__builtin_inff();
        if (in_bytes) {
            std::uint8_t* panel8 = panels8 + (i / kFeatures) * kFeatures * steps * kStep + i % kFeatures * 4;
            for (std::int64_t c = 0; c < steps * kStep; c += 4) __builtin_memset(panel8 + c * kFeatures, 0, 4);
        } else {
            float* to = panels + i / kFloatGroup * kFloatGroup * a.C + i % kFloatGroup;
            for (std::int64_t c = 0; c < a.C; ++c) to[c * kFloatGroup] = 0;
        }
    }

    const float* block_square(const Bank& bank) const { return bytes ? bank.square8 : bank.square; }
    const float* block_radius(const Bank& bank) const { return bytes ? bank.radius8 : bank.radius; }

    // What |p|^2 / 2 - <f, p> is at most for a prototype of a block that is within reach.
    float limit(std::int64_t i, float block_square, float block_radius) const {
        const float most = (reach[i] + radius[i] + block_radius) * kSafe;
        const float off = slack * (square[i] + block_square) + underflow;
        return (most * most + off - square[i]) / 2;
    }

    // A row to measure with: in place where it lies as it is needed, else loaded into `memory`.
    const T* row_at(const DistanceArguments& a, const Matrix& m, std::int64_t index, T* memory) {
        if constexpr (sizeof(Element) == sizeof(T))
            if (a.metric != Metric::cosine && m.column == 1 && a.C % kParts == 0)
                return reinterpret_cast<const T*>(m.data) + index * m.row;
        load_row<Element>(memory, m, index, a.C, a.metric);
        return memory;
    }
    void load_feature(const DistanceArguments& a, std::int64_t index) {
        if (feature_in_use == index) return;
        feature = row_at(a, a.features, index, row);
        feature_in_use = index;
    }
    T squared_to(const DistanceArguments& a, std::int64_t index) {
        return direct_distance(feature, row_at(a, a.prototypes, index, other), pad_row(a.C));
    }
    std::uint64_t key_to(const DistanceArguments& a, std::int64_t index) {
        const T squared = squared_to(a, index);
        return key_of(a.metric == Metric::cosine && is_zero(other, pad_row(a.C)) ? T(2) : squared);
    }

    // Measures the prototype in a slot of the blocks against row i.
    void measure(const DistanceArguments& a, std::int64_t i, std::int64_t slot) {
        const std::int64_t index = a.bank.index[slot];
        load_feature(a, first + id[i]);
        const std::uint64_t key = key_of(squared_to(a, index));
        Best& best = nearest[id[i]];
        ++work[i];
        if (best.full() && key > best.last().key) return;
        best.push({key, index});
        if (!best.full()) return;
        const double farthest = double(value_of<T>(best.last().key));
        const float now = round_up_to_float(__builtin_sqrt((farthest + double(underflow)) / (1 - error)));
        if (now < reach[i]) reach[i] = now;
    }

    // Measures what may be near in a block; in bytes, the prototype at `done` has been measured.
    void examine_block(const DistanceArguments& a, std::int64_t i, std::int64_t block, int done) {
        const Bank& bank = a.bank;
        const std::int64_t slot = block * kBlock,
                           count = lesser<std::int64_t>(kBlock, greater<std::int64_t>(0, bank.count[regular] - slot));
        ++work[i];
        if (!bytes) {
            for (int j = 0; j < count; ++j) measure(a, i, slot + j);
            return;
        }
        std::int32_t dots[kBlock];
        float score[kBlock];
        a.int8->dots(rows8 + i * steps * kStep, bank.int8, block, steps, dots);
        const float unit = scale[i] * bank.int8.scale[block];
        for (int j = 0; j < kBlock; ++j) score[j] = bank.int8.offset[slot + j] - unit * float(dots[j]);
        const auto most = [&] { return limit(i, bank.square8[block], bank.radius8[block]); };
        const Vector<float> now = broadcast(most());
        std::uint32_t mask = 0;
        for (int j = 0; j < kBlock; j += kLanes<float>) mask |= lanes_at_most(load(score + j), now) << j;
        mask &= ((1u << count) - 1) & ~(1u << done);
        for (; mask; mask &= mask - 1) {
            const int j = __builtin_ctz(mask);
            if (score[j] <= most()) measure(a, i, slot + j);
        }
    }

    bool beyond(const DistanceArguments& a, std::int64_t i, const Pending& p) const {
        return p.minimum > limit(i, block_square(a.bank)[p.block()], block_radius(a.bank)[p.block()]);
    }
    void forget_those_beyond(const DistanceArguments& a, std::int64_t i) {
        Pending* mine = pending + i * kPending;
        std::int32_t kept = 0;
        for (std::int32_t n = 0; n < pending_count[i]; ++n)
            if (!beyond(a, i, mine[n])) mine[kept++] = mine[n];
        pending_count[i] = kept;
    }

    // Measures the prototype that a minimum of bytes names.
    void measure_named(const DistanceArguments& a, std::int64_t i, Pending& p) {
        const std::int64_t slot = p.block() * std::int64_t(kBlock) + p.place();
        if (!bytes || p.named()) return;
        p.mark = ~p.mark;
        if (slot < a.bank.count[regular]) measure(a, i, slot);
    }
    // Those of the k nearest pending blocks, which settles almost how far the k-th prototype is.
    void measure_nearest(const DistanceArguments& a, std::int64_t i) {
        Pending* mine = pending + i * kPending;
        Best order(sorted, lesser(a.k, kPending));
        for (std::int32_t n = 0; n < pending_count[i]; ++n) order.push({key_of(mine[n].minimum), n});
        for (std::int64_t n = 0; n < order.size(); ++n) measure_named(a, i, mine[order[n].index]);
    }

    // Examines a block if it is within reach.
    void examine_pending(const DistanceArguments& a, std::int64_t i, Pending& p) {
        if (beyond(a, i, p)) return;
        measure_named(a, i, p);
        examine_block(a, i, p.block(), p.place());
    }

    // Examines the pending blocks of row i, the nearest first.
    void examine(const DistanceArguments& a, std::int64_t i) {
        Pending* mine = pending + i * kPending;
        Best order(sorted, kPending);
        for (std::int32_t n = 0; n < pending_count[i]; ++n) order.push({key_of(mine[n].minimum), n});
        order.sort();
        for (std::int64_t n = 0; n < order.size(); ++n) examine_pending(a, i, mine[order[n].index]);
        pending_count[i] = 0;
    }

    // Examines the pending blocks of all rows; in bytes block by block, so that rows share what they read.
    void examine_all(const DistanceArguments& a, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = 0; i < rows; ++i) {
            next[i] = 0;
            forget_those_beyond(a, i);
            bytes ? measure_nearest(a, i) : examine(a, i);
        }
        for (std::int64_t stop = begin + kShared; stop < end + kShared; stop += kShared)
            for (std::int64_t i = 0; i < rows; ++i)
                for (Pending* mine = pending + i * kPending; next[i] < pending_count[i]; ++next[i]) {
                    if (mine[next[i]].block() >= stop) break;
                    examine_pending(a, i, mine[next[i]]);
                }
    }

    // Out of memory for pending blocks. A row that goes on like this costs less in another way.
    void make_room(const DistanceArguments& a, std::int64_t i) {
        forget_those_beyond(a, i);
        if (bytes && pending_count[i] > kPending / 2) {
            measure_nearest(a, i);
            forget_those_beyond(a, i);
        }
        if (pending_count[i] <= kPending * 3 / 4) return;
        examine(a, i);
        if (work[i] <= budget) return;
        dead[i] = -__builtin_inff();
        give_up(id[i]);
    }

    // Remembers a block, and that k different prototypes are no farther than the bounds of k blocks.
    void remember(const DistanceArguments& a, std::int64_t i, Pending p) {
        if (pending_count[i] == kPending) make_room(a, i);
        if (!alive(i)) return;
        pending[i * kPending + pending_count[i]++] = p;
        if (a.k == 1) return;  // sift has seen to it
        const float off = slack * (square[i] + block_square(a.bank)[p.block()]) + underflow;
        const float D = __builtin_sqrtf(greater(0.0f, 2 * p.minimum + square[i] + off));
        const float upper = (D + radius[i] + block_radius(a.bank)[p.block()]) * grow + tiny;
        push_upper(a.k, i, upper);
    }
    void push_upper(std::int64_t k, std::int64_t i, float upper) {  // in ascending order
        float* mine = uppers + i * k;
        std::int32_t n = upper_count[i];
        if (n == k) {
            if (!(upper < mine[k - 1])) return;
            --n;
        } else {
            ++upper_count[i];
        }
        for (; n > 0 && mine[n - 1] > upper; --n) mine[n] = mine[n - 1];
        mine[n] = upper;
        if (upper_count[i] == k && mine[k - 1] < reach[i]) reach[i] = mine[k - 1];
    }
};

// The smallest value that k minima of disjoint sets of blocks, [begin, end) of `blocks`, do not exceed.
VSAD_HD Vector<float> kth_at_most(const float* minima, std::int64_t blocks, std::int64_t stride, std::int64_t k) {
    Vector<float> most = broadcast(-__builtin_inff());
    for (std::int64_t group = 0; group < k; ++group) {
        Vector<float> least = broadcast(__builtin_inff());
        for (std::int64_t b = blocks * group / k; b < blocks * (group + 1) / k; ++b) {
            const Vector<float> x = load(minima + b * stride);
            least = x < least ? x : least;
        }
        most = least > most ? least : most;
    }
    return most;
}

// Looks through the minima of the blocks [begin, end) for those within reach.
template <typename Element>
void sift(const DistanceArguments& a, Screen<Element>& s, std::int64_t begin, std::int64_t end) {
    constexpr int lanes = kLanes<float>;
    const std::int64_t blocks = end - begin, stride = s.padded_rows;
    float block_square = 0, block_radius = 0;
    for (std::int64_t b = begin; b < end; ++b) {
        block_square = greater(block_square, s.block_square(a.bank)[b]);
        block_radius = greater(block_radius, s.block_radius(a.bank)[b]);
    }
    for (std::int64_t i = 0; i < stride; i += lanes) {
        const float* minima = s.minima + i;
        const Vector<float> square = load(s.square + i), radius = load(s.radius + i) + block_radius;
        const Vector<float> off = s.slack * (square + block_square) + s.underflow;
        Vector<float> reach = load(s.reach + i);
        if (a.k <= blocks) {
            Vector<float> D = 2 * kth_at_most(minima, blocks, stride, a.k) + square + off;
            for (int j = 0; j < lanes; ++j) D[j] = __builtin_sqrtf(D[j] > 0 ? D[j] : 0);
            const Vector<float> upper = (D + radius) * s.grow + s.tiny;
            reach = upper < reach ? upper : reach;
            store(s.reach + i, reach);
        }
        const Vector<float> most = (reach + radius) * kSafe;
        const Vector<float> limit = (most * most + off - square) * 0.5f + load(s.dead + i);
        for (std::int64_t b = 0; b < blocks; ++b)
            for (std::uint32_t mask = lanes_at_most(load(minima + b * stride), limit); mask; mask &= mask - 1) {
                const int lane = __builtin_ctz(mask);
                if (s.alive(i + lane)) s.remember(a, i + lane, {minima[b * stride + lane], std::int32_t(begin + b)});
            }
    }
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
