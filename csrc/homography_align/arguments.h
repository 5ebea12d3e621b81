// The pointers, sizes, strides and options of one call of homography_align, for the CPU and CUDA kernels. The arguments
// that AlignCall (vsad/ops/homography_align/call.py) has too are in its order.
#pragma once
#include <cstdint>

#include "common/scalar.h"

namespace vsad {

// A tensor (batch, view, channel, y, x) where it lies in memory. Strides count elements and may be zero or negative.
struct Image {
    char* data = nullptr;
    std::int64_t batch = 0, view = 0, channel = 0, y = 0, x = 0;
};

// The compute dtype is float64 where dtype is, else float32.
struct AlignArguments {
    Scalar dtype;      // the dtype of query, key and value
    Scalar out_dtype;  // dtype or the compute dtype
    std::int64_t B, V, S, N, C, Cv, H, W, Hs, Ws;
    Image query, key, value;
    const void* homography;         // (B or 1, V, N, 3, 3), contiguous, in the compute dtype
    std::int64_t homography_batch;  // batch stride of homography; 0 when all batches share one
    const std::int64_t* neighbors;  // (V, N), contiguous; a value outside [0, S) marks an empty slot
    const void* bias;               // (heads, N, window, window), contiguous, in the compute dtype; may be null
    int heads, window;
    double scale;
    Image out;
    // The greatest logit of a pixel's valid cells, and log(sum exp(logit - peak)); -inf and 0 without a valid cell.
    // Apart, because their sum loses the digits of log_sum where logits are large. (B, V, heads, H, W), contiguous, in
    // the compute dtype; null in a forward that nobody wants them of.
    void *peak, *log_sum;
    int threads;  // maximum number of CPU threads
};

// Gradients that come in and where those that go out are written. A null pointer means: not needed.
struct AlignGradients {
    Image grad_out;             // has the dtype of query
    const void* grad_log_sum;   // like log_sum; null: zero
    void *query, *key, *value;  // dense (B, V or S, H, W, channels); each backend says which dtype, and what is zeroed
    double *homography, *bias;  // partial sums, zeroed; each backend says over what they are left to be summed
};

}  // namespace vsad
