// What vsad needs of DLPack 1 (https://dmlc.github.io/dlpack): how torch 2.10 and newer tell where a tensor lies, in
// some 20 nanoseconds and without a header of torch. The layout of these structures is DLPack's.
#pragma once
#include <cstdint>

namespace vsad {
namespace dlpack {

struct Tensor {
    void* data;
    struct {
        std::int32_t type, index;
    } device;
    std::int32_t dimensions;
    struct {
        std::uint8_t code, bits;
        std::uint16_t lanes;
    } dtype;
    std::int64_t *sizes, *strides;
    std::uint64_t byte_offset;
};

// The functions of a library whose tensors are exchanged; those that are not called here have no type.
struct Exchange {
    struct {
        std::uint32_t major, minor;
    } version;
    Exchange* older;
    void *allocate, *owned_from_python, *to_python;
    // Borrows; returns other than 0, and sets an exception, where it fails.
    int (*from_python)(void* object, Tensor* to);
    void* stream;
};

constexpr std::uint32_t kMajor = 1;
constexpr std::uint8_t kInteger = 0;  // the code of signed integers
constexpr const char* kCapsule = "dlpack_exchange_api";

// Torch's, since the module's Signature was made; null where torch has none.
inline const Exchange* exchange = nullptr;

}  // namespace dlpack
}  // namespace vsad
