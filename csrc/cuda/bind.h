// What the bindings of the CUDA kernels share.
#pragma once
#include <cuda_runtime_api.h>

#include "common/bind.h"
#include "cuda/transpose.h"

namespace vsad {
namespace cuda {

inline cudaStream_t stream_at(Pointer stream) { return reinterpret_cast<cudaStream_t>(stream); }

inline void bind_transpose(py::module_& m) {
    m.def(
        "transpose",
        [](Pointer from, Pointer to, const std::array<std::int64_t, 3>& sizes,
           const std::array<std::int64_t, 2>& from_strides, const std::array<std::int64_t, 2>& to_strides,
           int element_bytes, Pointer stream) {
            transpose({at<void>(from), at<void>(to), sizes[0], sizes[1], sizes[2], from_strides[0], from_strides[1],
                       to_strides[0], to_strides[1], element_bytes},
                      stream_at(stream));
        },
        py::arg("from_"), py::arg("to"), py::kw_only(), py::arg("sizes"), py::arg("from_strides"),
        py::arg("to_strides"), py::arg("element_bytes"), py::arg("stream"),
        "to[b][column][row] = from[b][row][column]; sizes are those of from, strides those of batches and rows.");
}

}  // namespace cuda
}  // namespace vsad
