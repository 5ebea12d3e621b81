// What the binding passes to the homography_align kernels.
#pragma once
#include <cstdint>

#include "common/scalar.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace vsad {

// A tensor (batch, view, channel, y, x) where it lies; strides count elements and may be zero or negative.
struct Image {
    char* data = nullptr;
    std::int64_t batch, view, channel, y, x;
};

struct AlignArguments {
    Scalar dtype;
    int heads, window, threads;
    double scale;
    std::int64_t B, V, S, N, C, Cv, H, W, Hs, Ws;
    Image query, key, value, out;
    bool wide_out;                  // out is in the compute dtype, whatever `dtype` is
    const void* homography;         // (B or 1, V, N, 3, 3), contiguous, in the compute dtype
    std::int64_t homography_batch;  // its batch stride; 0 shares one batch
    const std::int64_t* neighbors;  // (V, N), contiguous; -1 marks an empty slot
    const void* bias;               // (heads, N, window, window), contiguous, in the compute dtype; may be null
    void* lse;                      // (B, V, heads, H, W), contiguous, in the compute dtype
};

// One directed pair of views: target v attends to its slot n, which holds source s. Its rank among the edges with the
// same source, and among those with the same target, and their counts.
struct Edge {
    std::int64_t v, n, s, source_rank, source_count, target_rank, target_count;
};

struct AlignGradients {
    AlignArguments forward;
    Image grad_out;
    const void* grad_lse;       // like lse; may be null
    void *query, *key, *value;  // dense (B, V, H, W, C), in the compute dtype, zeroed; null: not needed
    double* homography;         // (batches of heads, at most heads, B, V, N, 3, 3), zeroed; null: not needed
    double* bias;               // (B, V, heads, N, window, window), zeroed; null: not needed
    const Edge* edges;          // neighbours share neither target nor source where that is possible
    std::int64_t edge_count;
    std::int64_t* turns;  // (B, V + S, heads, kTurnStride), zeroed: counters of items done, of targets, then sources
};

#define VSAD_DECLARE(isa, ...)                                       \
    namespace isa {                                                  \
    Work homography_align_forward(const AlignArguments& arguments);  \
    Work homography_align_backward(const AlignGradients& arguments); \
    }
VSAD_FOR_EACH_ISA(VSAD_DECLARE)
#undef VSAD_DECLARE

}  // namespace vsad
