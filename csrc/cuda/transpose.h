// Copies batches of matrices transposed: planes to channels last, and back.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace vsad {
namespace cuda {

// to[b][column][row] = from[b][row][column]. Elements of 2 or 4 bytes; rows of `from` and of `to` are contiguous, all
// strides count elements.
struct TransposeArguments {
    const void* from;
    void* to;
    std::int64_t batches, rows, columns, from_batch, from_row, to_batch, to_column;
    int element_bytes;
};
void transpose(const TransposeArguments& arguments, cudaStream_t stream);

}  // namespace cuda
}  // namespace vsad
