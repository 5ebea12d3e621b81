// What the binding passes to the kernels of homography_align.
#pragma once
#include <cstdint>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "homography_align/arguments.h"

namespace vsad {

// A directed pair of views: target view v attends to source view s in its slot n. The ranks count the edges before it
// with the same source, and with the same target; the counts are of all such edges.
struct Edge {
    std::int64_t v, n, s, source_rank, source_count, target_rank, target_count;
};

// The gradients that AlignGradients points to are
//     query, key, value    in the compute dtype and zeroed;
//     homography           (heads, B, V, N, 3, 3), zeroed: a partial sum at the first head of each batch of heads;
//     bias                 (B, V, heads, N, window, window), one partial sum per target view.
struct AlignBackwardArguments : AlignGradients {
    AlignArguments forward;
    const Edge* edges;  // where possible, edges beside each other share neither target nor source
    std::int64_t edge_count;
    std::int64_t* turns;  // (B, V + S, heads, kTurnStride), zeroed: how many items are done with a target or a source
};

// homography_align_translation is a faster forward, for calls of which homography_align_translates says that it takes
// them. Its logits differ in their last bits from those that the backward finds again.
#define VSAD_DECLARE(isa, ...)                                               \
    namespace isa {                                                          \
    Work homography_align_forward(const AlignArguments& arguments);          \
    bool homography_align_translates(const AlignArguments& arguments);       \
    Work homography_align_translation(const AlignArguments& arguments);      \
    Work homography_align_backward(const AlignBackwardArguments& arguments); \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
