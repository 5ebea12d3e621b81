// What the binding passes to the greedy_coreset kernels.
#pragma once
#include <cstdint>

#include "common/scalar.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace vsad {

// A point and how far it is from the picks that it was compared with.
struct Far {
    double squared;
    std::int64_t index;

    // Whether it is picked before another: the farther first, of equals the lower index.
    __attribute__((always_inline)) bool before(const Far& other) const {
        return squared > other.squared || (squared == other.squared && index < other.index);
    }
};

constexpr int kPanel = 48;        // columns of a panel: three AVX-512 vectors, six of AVX2
constexpr int kRegions = kPanel;  // one for each column of the panel of anchors

// The picks of a region in panels of their own, a chain of them.
struct RegionPanel {
    std::int64_t picks[kPanel];
    int count;
    std::int64_t last;  // the place among all picks of the last one
    std::int64_t next;  // panel; -1 ends the chain
};

struct CoresetArguments {
    Scalar dtype;
    int threads;
    std::int64_t M, C, size;
    const char* features;  // channels lie side by side
    std::int64_t stride;   // from row to row, in elements
    const float* center;   // (C,); results do not depend on it, near the mean screening errs least
    std::int64_t* picks;   // (size,); the first is given
    std::int64_t picked;

    // For every point: its squared distance to the nearest of the picks it was compared with, which are the
    // first `seen` of all, and those of its own region that are among the first `met`; -1 once it is picked.
    double* nearest;           // (M,)
    std::int64_t *seen, *met;  // (M,)
    std::uint8_t* region;      // (M,): its nearest anchor

    // Blocks of points, each with the one that comes first of its own.
    std::int64_t block;
    Far* leaders;

    // This round's candidates: every point that comes before `limit`, region by region.
    Far limit;
    const std::int64_t* candidates;
    std::int64_t count;
    float* rows;                  // the candidates' rows: centred, padded with zeros to whole lines of kLine
    double* squared;              // their squared lengths
    std::int64_t* active;         // those that can still be picked
    const std::int64_t* touched;  // the blocks that they come from
    std::int64_t touched_count;
    std::int64_t compared;  // pairs of a candidate and a pick of this round

    // Panels of [C + 1][kPanel]: an offset, then the centred channels.
    float *anchors, *panels, *region_panels;  // `panels` holds all picks in order
    RegionPanel* regions;                     // (region_count,), what stands in region_panels
    std::int64_t region_count, first_of_region[kRegions], last_of_region[kRegions];  // -1: none
};

constexpr std::int64_t kLine = 16;  // floats in the widest vector

VSAD_HD std::int64_t padded_channels(const CoresetArguments& a) { return (a.C + kLine - 1) / kLine * kLine; }
VSAD_HD std::int64_t panel_floats(const CoresetArguments& a) { return (a.C + 1) * kPanel; }

#define VSAD_DECLARE(isa, ...)                               \
    namespace isa {                                          \
    Work coreset_begin(CoresetArguments& arguments);         \
    Work coreset_refresh(const CoresetArguments& arguments); \
    void coreset_pick(CoresetArguments& arguments);          \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
