// How a call runs on the CPU: its memory, and how many candidates a round of picks has. Compiled into the module, not
// per instruction set.
#pragma once
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/call.h"
#include "greedy_coreset/cpu/kernels.h"

namespace vsad {
namespace {

constexpr std::int64_t kBlocks = 2048;          // about this many blocks of points
constexpr std::int64_t kPassPairs = 500;        // cost of a pass, choosing candidates and waking threads, in pairs
constexpr std::int64_t kLeastBlocks = 16;       // candidates come from at least this many blocks
constexpr std::int64_t kMostCandidates = 8192;  // at most this many candidates per round
constexpr std::int64_t kLeastForRegions = 512;  // fewer picks are not worth finding the regions
constexpr std::int64_t kRowBytes = 8 << 20;     // most memory for the candidates' rows

// The memory of a call beside its arguments: 25 bytes per point, the rows of the picks twice, and a few megabytes.
class Workspace {
  public:
    explicit Workspace(CoresetArguments& a) : nearest_(a.M), seen_(a.M), region_seen_(a.M), region_(a.M) {
        for (a.block = 8; a.block < 256 && a.M / a.block > kBlocks;) a.block *= 2;
        const std::int64_t blocks = (a.M + a.block - 1) / a.block, padded = padded_channels(a);
        leaders_.resize(blocks);
        order_.resize(blocks);
        std::iota(order_.begin(), order_.end(), 0);
        wanted_ = std::max(std::min(kLeastBlocks, blocks), blocks / 8);
        most_ = std::max(a.block, std::min(kMostCandidates, kRowBytes / std::max<std::int64_t>(64, padded * 4)));
        found_.reserve(most_);
        candidates_.resize(most_);
        squared_.resize(most_);
        active_.resize(most_);
        rows_.resize(most_ * padded + kLine);
        const bool regions = a.size >= kLeastForRegions && a.M >= a.size + kRegions;
        panels_ = empty_panels(a, (a.size + kPanel - 1) / kPanel);
        anchors_ = empty_panels(a, regions ? 1 : 0);
        regions_.resize(regions ? a.size / kPanel + kRegions : 0);
        region_panels_ = empty_panels(a, regions_.size());

        a.nearest = nearest_.data();
        a.seen = seen_.data();
        a.region_seen = region_seen_.data();
        a.region = region_.data();
        a.leaders = leaders_.data();
        a.candidates = candidates_.data();
        a.squared = squared_.data();
        a.active = active_.data();
        a.rows = aligned(rows_);
        a.touched = order_.data();
        a.panels = aligned(panels_);
        a.anchors = regions ? aligned(anchors_) : nullptr;
        a.regions = regions_.data();
        a.region_panels = aligned(region_panels_);
        std::fill_n(a.first_of_region, kRegions, -1);
        std::fill_n(a.last_of_region, kRegions, -1);
    }

    // Makes candidates of the points that rank above the leader of the block that is number `wanted_` among leaders.
    void choose(CoresetArguments& a) {
        a.touched_count = wanted_;
        while (!find(a)) a.touched_count /= 2;
        std::int64_t at[kRegions + 1] = {};
        for (const std::int64_t m : found_) ++at[region_[m] + 1];
        std::partial_sum(at, at + kRegions + 1, at);
        for (const std::int64_t m : found_) candidates_[at[region_[m]]++] = m;
        a.count = found_.size();
    }

    // Many candidates share a pass over the picks, and few candidates cost less per pick: a round should have about as
    // many comparisons with single picks as one pass costs.
    void adapt(const CoresetArguments& a) {
        const std::int64_t pass = a.picked + kPassPairs, blocks = order_.size();
        if (a.compared > 8 * pass)
            wanted_ = std::max(kLeastBlocks, wanted_ / 2);
        else if (a.compared < 2 * pass)
            wanted_ *= 2;
        wanted_ = std::min(wanted_, blocks - blocks / 8);
    }

  private:
    // The start of the first cache line: a vector that crosses two lines costs two loads.
    static float* aligned(std::vector<float>& memory) {
        return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64);
    }

    // Offsets of -infinity: a column without a pick is near no point.
    static std::vector<float> empty_panels(const CoresetArguments& a, std::int64_t count) {
        std::vector<float> panels(count * panel_floats(a) + kLine);
        for (std::int64_t i = 0; i < count; ++i)
            std::fill_n(aligned(panels) + i * panel_floats(a), kPanel, -std::numeric_limits<float>::infinity());
        return panels;
    }

    // Finds the points of the first `touched_count` blocks that rank above the next leader; returns whether they are
    // not too many.
    bool find(CoresetArguments& a) {
        a.limit = {-1, -1};  // all points that are not picked yet rank above it
        if (a.touched_count < std::int64_t(order_.size())) {
            const auto next = order_.begin() + a.touched_count;
            std::nth_element(order_.begin(), next, order_.end(),
                             [&](std::int64_t i, std::int64_t j) { return leaders_[i].before(leaders_[j]); });
            if (leaders_[*next].squared >= 0) a.limit = leaders_[*next];
        }
        found_.clear();
        for (std::int64_t i = 0; i < a.touched_count; ++i) {
            const std::int64_t begin = order_[i] * a.block, end = std::min(a.M, begin + a.block);
            for (std::int64_t m = begin; m < end; ++m)
                if (Far{nearest_[m], m}.before(a.limit)) found_.push_back(m);
            if (std::int64_t(found_.size()) > most_) return false;
        }
        return true;
    }

    std::vector<double> nearest_, squared_;
    std::vector<std::int64_t> seen_, region_seen_, found_, candidates_, active_, order_;
    std::vector<std::uint8_t> region_;
    std::vector<Far> leaders_;
    std::vector<float> rows_, panels_, anchors_, region_panels_;
    std::vector<RegionPanel> regions_;
    std::int64_t most_, wanted_;
};

inline void greedy_coreset(CoresetArguments& a) {
    Workspace workspace(a);
    run_parallel(VSAD_CHOOSE(coreset_begin)(a), &a);
    for (a.picked = 1; a.picked < a.size;) {
        workspace.choose(a);
        run_parallel(VSAD_CHOOSE(coreset_refresh)(a), &a);
        VSAD_CHOOSE(coreset_pick)(a);
        throw_if_abandoned();
        workspace.adapt(a);
    }
}

}  // namespace
}  // namespace vsad
