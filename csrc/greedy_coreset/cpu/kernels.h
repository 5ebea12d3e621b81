// What the binding passes to the CPU kernels of greedy_coreset.
#pragma once
#include <cstdint>

#include "common/scalar.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace vsad {

// A point, and its squared distance to the nearest of the picks that it was compared with.
struct Far {
    double squared;
    std::int64_t index;

    // Whether it ranks above another: the farther point does, and of equals the lower index.
    __attribute__((always_inline)) bool before(const Far& other) const {
        return squared > other.squared || (squared == other.squared && index < other.index);
    }
};

constexpr int kPanel = 48;        // columns of a panel: three AVX-512 vectors, six of AVX2
constexpr int kRegions = kPanel;  // one per column of the panel of anchors

// Picks of one region. The panels of a region form a chain.
struct RegionPanel {
    std::int64_t picks[kPanel];
    int count;
    std::int64_t last;  // the position of the panel's last pick among all picks
    std::int64_t next;  // the next panel; -1 ends the chain
};

struct CoresetArguments {
    Scalar dtype;
    int threads;
    std::int64_t M, C, size;
    const char* features;  // (M, C), with a channel stride of 1
    std::int64_t stride;   // row stride in elements
    const float* center;   // (C,); results do not depend on it, and near the mean screening errs least
    std::int64_t* picks;   // (size,); the first is given
    std::int64_t picked;

    // Per point: its squared distance to the nearest of the picks that it was compared with, or -1 once it is picked.
    // These picks are the first `seen` of all, and those of its own region that are among the first `region_seen`.
    double* nearest;                   // (M,)
    std::int64_t *seen, *region_seen;  // (M,)
    std::uint8_t* region;              // (M,), the nearest anchor

    std::int64_t block;  // points per block
    Far* leaders;        // per block, the point that ranks highest

    // The candidates of this round: all points that rank above `limit`, region by region.
    Far limit;
    const std::int64_t* candidates;
    std::int64_t count;
    float* rows;                  // the candidates' rows, centered, and padded with zeros to multiples of kLine
    double* squared;              // the squared lengths of these rows
    std::int64_t* active;         // the candidates that can still be picked
    const std::int64_t* touched;  // the blocks that the candidates come from
    std::int64_t touched_count;
    std::int64_t compared;  // how many pairs of a candidate and a pick of this round

    // Panels of [C + 1][kPanel]: offsets, then the centered channels. `panels` holds all picks in order.
    float *anchors, *panels, *region_panels;
    RegionPanel* regions;  // (region_count,), the contents of region_panels
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
