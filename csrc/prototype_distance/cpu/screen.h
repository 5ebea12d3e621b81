// The state of screening a tile of features: their quantized rows, an upper bound on the distance of each one's k-th
// nearest prototype, and the blocks that may hold something nearer.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "prototype_distance/cpu/float32.h"
#include "prototype_distance/cpu/kernels.h"
#include "prototype_distance/cpu/quantize.h"
#include "prototype_distance/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kChunk = 64;        // blocks that are screened before their minima are looked through
constexpr std::int64_t kShared = 8;        // blocks that, with the rows they were made of, fit the cache
constexpr std::int64_t kCandidates = 192;  // candidate blocks that a feature holds before it re-ranks them
constexpr float kSafe = 1 + 0x1p-20f;      // covers the rounding of a few operations on bounds

// Rounds up to whole groups of features of either arithmetic: 32 in int8; 48, 24 or 8 in float32.
VSAD_HD std::int64_t whole_groups(std::int64_t rows) { return (rows + 95) / 96 * 96; }

// A block that may hold one of the k nearest prototypes of a feature.
struct CandidateBlock {
    float minimum;      // the smallest screened value; in int8 its last bits name the prototype that has it
    std::int32_t mark;  // the block, or its complement once the prototype that the minimum names is measured

    bool measured() const { return mark < 0; }
    std::int32_t block() const { return mark < 0 ? ~mark : mark; }
    int place() const { return int(bit_cast<std::uint32_t>(minimum) & kPlace); }
};

// A mask of the lanes where a <= b.
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

    const DistanceArguments& a;

    // Per row being screened.
    std::uint8_t *panels_int8, *rows_int8;
    float *panels, *scale, *squared, *radius, *reach, *dead, *minima, *upper_bounds;
    std::int64_t* id;  // the row's number within the tile
    std::int32_t *candidate_count, *upper_bound_count, *work, *next;
    CandidateBlock* candidates;
    Neighbor *sorted, *neighbors;
    // Per row of the tile.
    Nearest *nearest, *brute_force_nearest;
    std::int64_t *ids[2], *given_up;
    bool* measured;  // against every prototype
    // One row, one block.
    const T* feature = nullptr;
    T *row, *other, *brute_force_rows, *brute_force_tile;
    float *centered, *panel, *tile;
    std::int8_t* codes;

    std::int64_t steps;       // groups of kStep channels per row
    std::int64_t float_rows;  // number of rows that are screened together in float32
    std::int64_t rows = 0, padded_rows = 0, given_up_count = 0, first = 0, feature_in_use = -1, budget = 0;
    bool in_int8 = false;
    double error;                        // relative error of direct squared distances
    float slack, underflow, grow, tiny;  // bounds on errors, see start

    Screen(Arena& arena, const DistanceArguments& arguments) : a(arguments) {
        const std::int64_t most = whole_groups(a.rows), padded = pad_row(a.C);
        steps = (a.C + kStep - 1) / kStep;
        const std::int64_t width = steps * kStep;
        float_rows = a.int8 ? greater<std::int64_t>(96, most / 4 / 96 * 96) : most;
        panels_int8 = a.int8 ? arena.take<std::uint8_t>(most * width) : nullptr;
        rows_int8 = a.int8 ? arena.take<std::uint8_t>(most * width) : nullptr;
        panels = arena.take<float>(float_rows * a.C);
        for (float** each : {&scale, &squared, &radius, &reach, &dead}) *each = arena.take<float>(most);
        minima = arena.take<float>(most * kChunk);
        upper_bounds = arena.take<float>(a.k > 1 ? most * a.k : 0);
        id = arena.take<std::int64_t>(most);
        for (std::int32_t** each : {&candidate_count, &upper_bound_count, &work, &next})
            *each = arena.take<std::int32_t>(most);
        candidates = arena.take<CandidateBlock>(most * kCandidates);
        sorted = arena.take<Neighbor>(kCandidates);
        neighbors = arena.take<Neighbor>(a.partial ? 0 : most * a.k);
        nearest = arena.take<Nearest>(most);
        brute_force_nearest = arena.take<Nearest>(kBruteForceRows);
        for (std::int64_t** each : {&ids[0], &ids[1], &given_up}) *each = arena.take<std::int64_t>(most);
        measured = arena.take<bool>(most);
        row = arena.take<T>(padded);
        other = arena.take<T>(padded);
        brute_force_rows = arena.take<T>(kBruteForceRows * padded);
        brute_force_tile = arena.take<T>(kTogether * padded);
        centered = arena.take<float>(width);
        panel = arena.take<float>(padded * kBlock);
        tile = arena.take<float>(kLanes<float> * padded);
        codes = arena.take<std::int8_t>(width);
    }

    // Starts a pass over `blocks` blocks, in int8 or in float32, for rows of the tile that begins at feature
    // `first_row`.
    //
    // The error of the arithmetic: D^2 = |f|^2 + 2 (|p|^2 / 2 - <f, p>) is a sum of C float32 products, or of a few
    // roundings of an exact integer dot product with the last bits of a minimum replaced, so it is off by at most
    // slack (|f|^2 + |p|^2). A direct difference is off by `error`, relative. What underflows is below `underflow`.
    void start(bool use_int8, std::int64_t first_row, std::int64_t blocks) {
        in_int8 = use_int8;
        first = first_row;
        feature_in_use = -1;
        error = direct_error(a.C, kUnit);
        slack = float(in_int8 ? 4 * kPlace * 0x1p-23 + 32 * kUnit : 2.1 * double(a.C + 16) * kUnit);
        underflow = float(8 * double(a.C + 1) * 0x1p-126);
        grow = float(1 + 2 * error) * kSafe;
        tiny = 2 * __builtin_sqrtf(underflow);
        // measuring a prototype costs about 8 times what screening it costs in float32
        budget = 64 + blocks * kBlock / 16;
    }

    bool alive(std::int64_t i) const { return dead[i] == 0; }
    void give_up(std::int64_t row_of_tile) { given_up[given_up_count++] = row_of_tile; }

    // Adds row i of the pass, whose centered row stands in `centered`.
    void add(std::int64_t i, double length_squared, double moved) {
        squared[i] = float(length_squared);
        radius[i] = round_up_to_float(moved);
        reach[i] = __builtin_inff();
        dead[i] = 0;
        candidate_count[i] = upper_bound_count[i] = work[i] = 0;
        nearest[id[i]].clear();
    }
    void add_int8(std::int64_t i, double length_squared) {
        const std::int64_t padded = pad_row(a.C), width = steps * kStep;
        const float largest = largest_of(centered, padded) / 127;
        scale[i] = largest < kLeastScale ? 0 : largest;
        const Quantized q = quantize_row(codes, centered, scale[i], padded);
        for (std::int64_t c = padded; c < width; ++c) codes[c] = 0;
        add(i, q.squared, q.radius(length_squared, a.C) + kCenterError * __builtin_sqrt(length_squared));
        std::uint8_t* to = rows_int8 + i * width;
        for (std::int64_t c = 0; c < width; ++c) to[c] = std::uint8_t(codes[c]) ^ 0x80u;
        put_in_panel(i, to, a.int8->is_signed ? 0x80808080u : 0);
    }
    void put_in_panel(std::int64_t i, const std::uint8_t* from, std::uint32_t flip) {
        std::uint8_t* to = panel_int8(i);
        for (std::int64_t c = 0; c < steps * kStep; c += 4) {
            std::uint32_t four;
            __builtin_memcpy(&four, from + c, 4);
            four ^= flip;
            __builtin_memcpy(to + c * kFeatures, &four, 4);
        }
    }
    void add_float32(std::int64_t i, double length_squared) {
        add(i, length_squared, kCenterError * __builtin_sqrt(length_squared));
        float* to = panel_float32(i);
        for (std::int64_t c = 0; c < a.C; ++c) to[c * kFloatGroup] = centered[c];
    }
    // Adds a row of zeros that pads a group of features and takes nothing.
    void add_padding(std::int64_t i, bool use_int8) {
        scale[i] = squared[i] = radius[i] = reach[i] = 0;
        dead[i] = -__builtin_inff();
        if (use_int8) {
            std::uint8_t* to = panel_int8(i);
            for (std::int64_t c = 0; c < steps * kStep; c += 4) __builtin_memset(to + c * kFeatures, 0, 4);
        } else {
            float* to = panel_float32(i);
            for (std::int64_t c = 0; c < a.C; ++c) to[c * kFloatGroup] = 0;
        }
    }
    // Where row i begins in the panels that interleave features.
    std::uint8_t* panel_int8(std::int64_t i) const {
        return panels_int8 + (i / kFeatures) * kFeatures * steps * kStep + i % kFeatures * 4;
    }
    float* panel_float32(std::int64_t i) const {
        return panels + i / kFloatGroup * kFloatGroup * a.C + i % kFloatGroup;
    }

    const float* block_squared() const { return in_int8 ? a.bank.squared_int8 : a.bank.squared; }
    const float* block_radius() const { return in_int8 ? a.bank.radius_int8 : a.bank.radius; }

    // An upper bound on |p|^2 / 2 - <f, p> of a prototype of a block that is within reach of row i.
    float limit(std::int64_t i, float block_squared, float block_radius) const {
        const float most = (reach[i] + radius[i] + block_radius) * kSafe;
        const float off = slack * (squared[i] + block_squared) + underflow;
        return (most * most + off - squared[i]) / 2;
    }
    bool beyond(std::int64_t i, const CandidateBlock& c) const {
        return c.minimum > limit(i, block_squared()[c.block()], block_radius()[c.block()]);
    }

    // Defined in rerank.h.
    const T* row_at(const Matrix& m, std::int64_t index, T* memory);
    void load_feature(std::int64_t index);
    T squared_to(std::int64_t index);
    std::uint64_t key_to(std::int64_t index);
    void measure(std::int64_t i, std::int64_t slot);
    void measure_named(std::int64_t i, CandidateBlock& c);
    void measure_nearest(std::int64_t i);
    void rerank_block(std::int64_t i, std::int64_t block, int done);
    void rerank_candidate(std::int64_t i, CandidateBlock& c);
    void rerank(std::int64_t i);
    void rerank_all(std::int64_t begin, std::int64_t end);
    void drop_candidates_beyond(std::int64_t i);
    void make_room(std::int64_t i);
    void add_candidate(std::int64_t i, CandidateBlock c);
    void add_upper_bound(std::int64_t i, float upper);
};

// An upper bound on the k-th smallest value, per lane: the largest minimum of k disjoint groups of the blocks.
VSAD_HD Vector<float> kth_upper_bound(const float* minima, std::int64_t blocks, std::int64_t stride, std::int64_t k) {
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

// Looks through the minima of the blocks [begin, end) for candidates: blocks within reach of a row.
template <typename Element>
void find_candidates(Screen<Element>& s, std::int64_t begin, std::int64_t end) {
    constexpr int lanes = kLanes<float>;
    const std::int64_t blocks = end - begin, stride = s.padded_rows, k = s.a.k;
    float block_squared = 0, block_radius = 0;
    for (std::int64_t b = begin; b < end; ++b) {
        block_squared = greater(block_squared, s.block_squared()[b]);
        block_radius = greater(block_radius, s.block_radius()[b]);
    }
    for (std::int64_t i = 0; i < stride; i += lanes) {
        const float* minima = s.minima + i;
        const Vector<float> squared = load(s.squared + i), radius = load(s.radius + i) + block_radius;
        const Vector<float> off = s.slack * (squared + block_squared) + s.underflow;
        Vector<float> reach = load(s.reach + i);
        if (k <= blocks) {
            Vector<float> D = 2 * kth_upper_bound(minima, blocks, stride, k) + squared + off;
            for (int j = 0; j < lanes; ++j) D[j] = __builtin_sqrtf(D[j] > 0 ? D[j] : 0);
            const Vector<float> upper = (D + radius) * s.grow + s.tiny;
            reach = upper < reach ? upper : reach;
            store(s.reach + i, reach);
        }
        const Vector<float> most = (reach + radius) * kSafe;
        const Vector<float> limit = (most * most + off - squared) * 0.5f + load(s.dead + i);
        for (std::int64_t b = 0; b < blocks; ++b)
            for (std::uint32_t mask = lanes_at_most(load(minima + b * stride), limit); mask; mask &= mask - 1) {
                const int lane = __builtin_ctz(mask);
                if (s.alive(i + lane)) s.add_candidate(i + lane, {minima[b * stride + lane], std::int32_t(begin + b)});
            }
    }
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
