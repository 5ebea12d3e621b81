// What the binding passes to the kernels of homography_align.
//
// Kernels know one layout: channels side by side (channels last), and the channels of every head a multiple of 16
// bytes. The launcher copies every other tensor once, which moves each of its bytes twice; loading single channels
// would take 4 or 8 times as many loads for each of the N (R+1)^2 taps that every pixel reads.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <stdexcept>

#include "homography_align/arguments.h"

namespace vsad {
namespace cuda {

constexpr int kPackBytes = 16;

// The call as kernels take it: C and Cv include the padding of heads to packs of 16 bytes, and steps within a window
// fit 32 bits. Every dtype is computed in float32.
struct PackedAlignArguments : AlignArguments {
    int key_packs, value_packs;  // packs of 16 bytes in a head
    float logit_scale;           // scale in the compute dtype
};

inline PackedAlignArguments packed(const AlignArguments& a) {
    const int channels = kPackBytes / (a.dtype == Scalar::float32 ? 4 : 2), divisor = a.heads * channels;
    if (a.C % divisor || a.Cv % divisor)
        throw std::invalid_argument("homography_align: the channels of a head must fill packs of 16 bytes");
    if (a.out.data && a.out_dtype != a.dtype)
        throw std::invalid_argument("homography_align: out must have the dtype of query");
    return {a, static_cast<int>(a.C / divisor), static_cast<int>(a.Cv / divisor), static_cast<float>(a.scale)};
}

// A rectangle of source pixels, its edges included; where it holds none, no number but left and top exceeds -1.
struct alignas(16) SourceBox {
    int left, top, right, bottom;
};

// The gradients of the base are
//     query         in dtype;
//     key, value    float32 and zeroed when they are scattered, in dtype when they are gathered;
//     homography    (B, V, N, tiles * heads, 3, 3), one partial sum per tile and head;
//     bias          (heads, N, B * V * tiles, window, window), one partial sum per tile.
// When `forward.out` is null, the softmax and <grad_out, out> are recomputed: float16 / bfloat16 round out too
// coarsely, and tensor cores find other logits. For the gather they are then left in `inner`, `forward.peak` and
// `forward.log_sum`.
struct AlignBackwardArguments : AlignGradients {
    PackedAlignArguments forward;
    float* inner;      // (B, V, heads, H, W), <grad_out, out> for the gather; null: scatter
    SourceBox* boxes;  // null: scatter. Else the source pixels that a tile's windows touch, (B, V, N, tiles), which
                       // hold none as yet, and room for those of the groups of tiles, (B, V, N, groups)
};

// The top left tap of a target pixel's window in a source view; far outside it where no cell is valid.
struct alignas(8) Corner {
    int left, top;
};

// The tensor core backward of float16 / bfloat16: it writes every gradient without atomics, bit-identical on every run,
// and finds the softmax for itself. Gradients of images are in dtype, those of homography and bias as above; a tile is
// one of its own, of 4 x 4 target pixels.
struct AlignMmaBackwardArguments : AlignGradients {
    PackedAlignArguments forward;
    void* taps;        // (B, V, N, tiles, heads, 2, 16, (window + 1)^2), in dtype: what the taps of a pixel's window
                       // weigh in the gradients of key, then of value
    Corner* corners;   // (B, V, N, tiles, 16)
    SourceBox* boxes;  // as in AlignBackwardArguments
};

// The number of tiles that the backward makes of a view.
std::int64_t homography_align_tiles(std::int64_t H, std::int64_t W);
// The number of boxes that the gather needs of a slot of a view: of its tiles and of their groups.
std::int64_t homography_align_boxes(std::int64_t H, std::int64_t W);
void homography_align_forward(const PackedAlignArguments& arguments, cudaStream_t stream);
// Returns false, having launched nothing, for calls that the tensor core kernel does not serve.
bool homography_align_forward_mma(const PackedAlignArguments& arguments, cudaStream_t stream);
// Writes every gradient, scattering those of key and value atomically. When `inner` and `boxes` are given, it leaves
// out key and value and fills those two buffers for homography_align_gather.
void homography_align_backward(const AlignBackwardArguments& arguments, cudaStream_t stream);
// Whether the tensor core backward serves a call, and the numbers of its tiles and boxes.
bool homography_align_has_mma_backward(const PackedAlignArguments& arguments, const Image& grad_out);
std::int64_t homography_align_mma_tiles(std::int64_t H, std::int64_t W);
std::int64_t homography_align_mma_boxes(std::int64_t H, std::int64_t W);
// Writes every gradient but those of key and value, for which it leaves taps, corners and boxes.
void homography_align_backward_mma(const AlignMmaBackwardArguments& arguments, cudaStream_t stream);
// Writes the gradients of key and value after homography_align_backward_mma.
void homography_align_gather_mma(const AlignMmaBackwardArguments& arguments, cudaStream_t stream);
// Writes the gradients of key and value after homography_align_backward, bit-identical on every run.
void homography_align_gather(const AlignBackwardArguments& arguments, cudaStream_t stream);
// The first step of both gathers: finds the boxes of the groups of tiles from those of the tiles.
void homography_align_group_boxes(const AlignArguments& arguments, SourceBox* boxes, int tile_side,
                                  cudaStream_t stream);

}  // namespace cuda
}  // namespace vsad
