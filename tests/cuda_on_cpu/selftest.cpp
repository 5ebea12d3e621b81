// Checks that the emulator keeps CUDA's guarantees and reports what CUDA forbids. Prints one line per check.
#include <cstdio>
#include <vector>

#include "cuda/grid.h"

using namespace vsad::cuda;

namespace {

__global__ void sum_warps(const int* in, int* out) {
    int v = in[blockIdx.x * blockDim.x + threadIdx.x];
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    if (threadIdx.x % 32 == 0) atomicAdd(out + blockIdx.x, v);
}

__global__ void reverse(const int* in, int* out) {
    int* shared = reinterpret_cast<int*>(dynamic_shared());
    shared[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void without_barrier(const int* in, int* out) {
    int* shared = reinterpret_cast<int*>(dynamic_shared());
    shared[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void half_a_warp(int* out) {  // two exchanges at the same time
    const unsigned mask = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
    out[threadIdx.x] = __shfl_sync(mask, static_cast<int>(threadIdx.x), threadIdx.x < 16 ? 3 : 20);
}

__global__ void votes(int* out) {
    const unsigned ballot = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
    const unsigned same = __match_any_sync(0xffffffffu, threadIdx.x / 8);
    if (threadIdx.x == 9) out[0] = static_cast<int>(ballot), out[1] = static_cast<int>(same);
    out[2] = __syncthreads_count(threadIdx.x < 5);
}

__global__ void parted_barrier() {
    if (threadIdx.x < 32) __shfl_sync(0xffffffffu, 0, 0);
    if (threadIdx.x == 0) __shfl_sync(0xffffffffu, 0, 0);  // the other lanes do not
    __syncthreads();
}

__global__ void foreign_mask() { __shfl_sync(0x0000ffffu, 0, 0); }

__global__ void pass_on(int* values) {  // every block reads what the previous one wrote
    for (unsigned round = 0; round < gridDim.x; ++round) {
        if (threadIdx.x == 0 && blockIdx.x == round) values[round + 1] = values[round] + 1;
        grid_sync();
    }
}

int failures = 0;

void expect(bool good, const char* what) {
    std::printf("%s: %s\n", good ? "ok" : "FAILED", what);
    failures += !good;
}

template <typename F>
void expect_error(F f, const char* text, const char* what) {
    std::string message;
    try {
        f();
    } catch (const std::exception& error) {
        message = error.what();
    }
    expect(message.find(text) != std::string::npos, what);
}

}  // namespace

int main() {
    std::vector<int> input(128), output(128), rounds(5);
    int *const in = input.data(), *const out = output.data(), *const values = rounds.data();
    for (int i = 0; i < 128; ++i) in[i] = i;
    launch(sum_warps, dim3(2), dim3(64), 0, nullptr, in, out);
    expect(out[0] == 2016 && out[1] == 6112, "shuffles and atomics add up");
    launch(reverse, dim3(1), dim3(128), 512, nullptr, in, out);
    bool good = true;
    for (int i = 0; i < 128; ++i) good = good && out[i] == 127 - i;
    expect(good, "a barrier makes shared memory visible");
    launch(half_a_warp, dim3(1), dim3(32), 0, nullptr, out);
    expect(out[0] == 3 && out[15] == 3 && out[16] == 20 && out[31] == 20, "two halves of a warp shuffle apart");
    launch(votes, dim3(1), dim3(32), 0, nullptr, out);
    expect(out[0] == 0x49249249 && out[1] == 0x0000ff00 && out[2] == 5, "votes");
    launch_cooperative(pass_on, dim3(4), dim3(32), 0, nullptr, values);
    expect(values[4] == 4, "blocks of a cooperative kernel wait for one another");
    launch(without_barrier, dim3(1), dim3(128), 512, nullptr, in, out);
    good = true;
    for (int i = 0; i < 128; ++i) good = good && out[i] == 127 - i;
    expect(!good, "a missing barrier shows");
    expect_error([] { launch(parted_barrier, dim3(1), dim3(64), 0, nullptr); }, "wait for ever", "deadlocks are found");
    expect_error([] { launch(foreign_mask, dim3(1), dim3(32), 0, nullptr); }, "does not name the calling lane",
                 "a mask without its own lane is found");
    expect_error([&] { launch(reverse, dim3(1), dim3(32), 300 * 1024, nullptr, in, out); }, "shared memory",
                 "too much shared memory is found");
    return failures;
}
