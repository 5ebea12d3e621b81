// Runs CUDA threads as fibers of one CPU thread, so that the kernels of csrc can be tested where there is no GPU.
//
// A fiber runs until it waits: at __syncthreads, where a warp exchanges values (shuffles, votes, __syncwarp), at a
// barrier of the grid, or for a condition. Nothing interrupts it in between, so atomics are plain operations. To show
// that kernels do not rely on an order, fibers and blocks can run in other orders: VSAD_EMULATOR_ORDER is forward,
// reverse, or a number that seeds a shuffle. A deadlock raises an error that says where the threads wait.
#pragma once
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/fiber.h"

#undef __shared__
#define __shared__ static  // blocks run one at a time; those of a cooperative kernel must not use it
#undef __constant__
#define __constant__ static
#undef __global__
#define __global__
#undef __device__
#define __device__
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __noinline__
#define __noinline__ __attribute__((noinline))
#undef __grid_constant__
#define __grid_constant__
#define VSAD_SM90A

namespace vsad {
namespace emulator {

constexpr int kStackBytes = 256 * 1024;

// An exchange of 64-bit values between the threads of a warp that `mask` names.
struct Meeting {
    unsigned mask, arrived = 0;
    unsigned long long generation = 0;
    std::uint64_t in[32], out[32];
};

struct Barrier {
    int arrived = 0;
    unsigned long long generation = 0;
    int sum = 0, result = 0;
};

struct Warp {
    std::vector<std::unique_ptr<Meeting>> meetings;
    unsigned alive = 0;
};

struct Block {
    uint3 index;
    int threads = 0, alive = 0;
    Block* first = nullptr;  // the first block of those that run together
    int together = 1;        // the number of blocks that run together
    unsigned char* shared = nullptr;
    std::size_t shared_bytes = 0;
    Barrier barrier;
    std::vector<Barrier> named = std::vector<Barrier>(16);
    std::vector<Warp> warps;
};

struct Thread {
    uint3 index;
    int linear = 0;
    Block* block = nullptr;
    bool finished = false;
    const char* waits = nullptr;  // what the thread waits for
    std::function<bool()> ready;  // whether it may continue
    Context context;
    std::vector<std::function<void()>> begun;               // copies not committed to a group yet
    std::deque<std::vector<std::function<void()>>> groups;  // groups of copies in flight
    std::deque<std::vector<std::function<void()>>> product_groups;
    std::vector<std::function<void()>> products;
    unsigned char given[2][64];  // the values that this lane passes to `exchange`
    unsigned gifts = 0;
};

struct Grid {
    dim3 grid, block;
    Context scheduler;
    Thread* self = nullptr;
    std::vector<Thread*> threads;
    std::function<void()> body;
    std::exception_ptr error;
    Barrier barrier;  // waits for the threads of all blocks
};

// One grid for all translation units, because the function is inline.
inline Grid& current() {
    static Grid grid;
    return grid;
}
inline Thread& self() { return *current().self; }

template <typename Ready>
void wait(const char* what, Ready ready) {
    if (ready()) return;
    Thread& me = self();
    me.waits = what;
    me.ready = ready;
    switch_to(me.context, current().scheduler);
    me.ready = nullptr;
    me.waits = nullptr;
}

// A barrier of `count` threads; each adds `v` and receives the sum.
inline int meet(Barrier& barrier, int count, const char* what, int v = 0) {
    const auto generation = barrier.generation;
    barrier.sum += v;
    if (++barrier.arrived >= count) {
        barrier.result = barrier.sum;
        barrier.arrived = barrier.sum = 0;
        ++barrier.generation;
    } else {
        wait(what, [&barrier, generation] { return barrier.generation != generation; });
    }
    return barrier.result;
}

inline Meeting& meet_warp(unsigned mask, std::uint64_t v, const char* what = "a warp's meeting") {
    Thread& me = self();
    Warp& warp = me.block->warps[me.linear / 32];
    const int lane = me.linear % 32;
    if (!(mask >> lane & 1)) throw std::logic_error(std::string(what) + ": the mask does not name the calling lane");
    Meeting* meeting = nullptr;
    for (auto& m : warp.meetings)
        if (m->mask == mask) meeting = m.get();
    if (!meeting) {
        warp.meetings.push_back(std::make_unique<Meeting>());
        meeting = warp.meetings.back().get();
        meeting->mask = mask;
    }
    meeting->in[lane] = v;
    meeting->arrived |= 1u << lane;
    if (meeting->arrived == mask) {
        std::memcpy(meeting->out, meeting->in, sizeof meeting->out);
        meeting->arrived = 0;
        ++meeting->generation;
    } else {
        const auto generation = meeting->generation;
        wait(what, [meeting, generation] { return meeting->generation != generation; });
    }
    return *meeting;
}

inline int lane() { return self().linear % 32; }

// The values of all lanes of a warp.
template <typename T>
struct Lanes {
    const Meeting& meeting;
    const T& operator[](int lane) const { return *reinterpret_cast<const T*>(meeting.out[lane]); }
};
// Every lane passes a value to all others, which stays valid until the warp's exchange after the next.
template <typename T>
Lanes<T> exchange(const T& v, const char* what) {
    static_assert(sizeof(T) <= sizeof Thread::given[0], "an exchange moves at most 64 bytes");
    unsigned char* given = self().given[self().gifts++ % 2];
    std::memcpy(given, &v, sizeof v);
    return {meet_warp(0xffffffffu, reinterpret_cast<std::uint64_t>(given), what)};
}

// Asynchronous copies and products happen as late as they may, or, with VSAD_EMULATOR_ORDER=reverse, immediately: a
// kernel must work with both.
inline bool at_once() {
    const char* name = std::getenv("VSAD_EMULATOR_ORDER");
    return name && std::string(name) == "reverse";
}

template <typename T>
std::uint64_t to_bits(T v) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 64 bits");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    return bits;
}
template <typename T>
T from_bits(std::uint64_t bits) {
    T v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

inline void trampoline() {
    try {
        current().body();
    } catch (...) {
        current().error = std::current_exception();
    }
    Thread& me = self();
    me.finished = true;
    Block& block = *me.block;
    --block.alive;
    block.warps[me.linear / 32].alive &= ~(1u << me.linear % 32);
    if (block.barrier.arrived > 0 && block.barrier.arrived >= block.alive) {  // the other threads need not wait for it
        block.barrier.result = block.barrier.sum;
        block.barrier.arrived = block.barrier.sum = 0;
        ++block.barrier.generation;
    }
    switch_to(me.context, current().scheduler);
}

struct Order {
    int kind = 0;  // 0 forward, 1 reverse, 2 shuffled
    std::mt19937 random;

    Order() {
        const char* name = std::getenv("VSAD_EMULATOR_ORDER");
        if (!name || std::string(name) == "forward") return;
        kind = std::string(name) == "reverse" ? 1 : 2;
        if (kind == 2) random.seed(std::atoi(name));
    }
    template <typename T>
    void apply(std::vector<T>& items) {
        if (kind == 1) std::reverse(items.begin(), items.end());
        if (kind == 2) std::shuffle(items.begin(), items.end(), random);
    }
};

inline unsigned char* stack(std::size_t number) {
    static std::vector<unsigned char*> stacks;
    while (stacks.size() <= number) {
        void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        stacks.push_back(static_cast<unsigned char*>(memory));
    }
    return stacks[number];
}

// Runs all threads of these blocks until they finish.
inline void run_blocks(const std::vector<uint3>& indices, std::size_t shared, Order& order) {
    Grid& grid = current();
    const int count = static_cast<int>(grid.block.x * grid.block.y * grid.block.z);
    std::vector<Block> blocks(indices.size());
    std::vector<std::unique_ptr<Thread>> threads;
    std::vector<std::unique_ptr<unsigned char, void (*)(void*)>> memories;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        Block& block = blocks[i];
        block.index = indices[i];
        block.first = blocks.data();
        block.together = static_cast<int>(blocks.size());
        block.threads = block.alive = count;
        block.warps.resize((count + 31) / 32);
        const std::size_t bytes = std::max<std::size_t>(shared, 1);
        void* memory = nullptr;
        if (posix_memalign(&memory, 1024, bytes)) throw std::bad_alloc();
        std::memset(memory, 0xa5, bytes);  // uninitialized shared memory must not look like zeros
        memories.emplace_back(static_cast<unsigned char*>(memory), &std::free);
        block.shared = static_cast<unsigned char*>(memory);
        block.shared_bytes = shared;
        for (int t = 0; t < count; ++t) {
            threads.push_back(std::make_unique<Thread>());
            Thread& thread = *threads.back();
            thread.linear = t;
            thread.index =
                make_uint3(t % grid.block.x, t / grid.block.x % grid.block.y, t / (grid.block.x * grid.block.y));
            thread.block = &block;
            block.warps[t / 32].alive |= 1u << t % 32;
            prepare(thread.context, stack(threads.size() - 1), kStackBytes, &trampoline);
        }
    }
    std::vector<Thread*> waiting;
    for (auto& thread : threads) waiting.push_back(thread.get());
    grid.threads = waiting;
    while (!waiting.empty()) {
        order.apply(waiting);
        bool moved = false;
        for (Thread* thread : waiting) {
            if (thread->ready && !thread->ready()) continue;
            moved = true;
            grid.self = thread;
            switch_to(grid.scheduler, thread->context);
            if (grid.error) std::rethrow_exception(grid.error);
        }
        waiting.erase(std::remove_if(waiting.begin(), waiting.end(), [](Thread* t) { return t->finished; }),
                      waiting.end());
        if (!moved && !waiting.empty()) {
            const Thread& first = *waiting.front();
            throw std::runtime_error("emulator: " + std::to_string(waiting.size()) + " threads wait for ever; thread " +
                                     std::to_string(first.linear) + " of block " +
                                     std::to_string(first.block->index.x) + " waits at " + first.waits);
        }
    }
}

// The shared memory per block on GPUs of the compute capability VSAD_EMULATOR_CAPABILITY.
inline std::size_t most_shared() {
    const char* number = std::getenv("VSAD_EMULATOR_CAPABILITY");
    const int capability = number ? std::atoi(number) : 90;
    return (capability == 80 ? 163 : capability / 10 == 8 || capability >= 120 ? 99 : 227) * 1024;
}

// Runs all blocks concurrently if `together`, else `cluster` of them at a time.
inline void run(dim3 grid_size, dim3 block_size, std::size_t shared, bool together, std::function<void()> body,
                std::size_t cluster = 1) {
    Grid& grid = current();
    if (shared > most_shared()) throw std::runtime_error("emulator: more shared memory than a block has");
    if (block_size.x * block_size.y * block_size.z > 1024)
        throw std::runtime_error("emulator: a block has at most 1024 threads");
    grid.grid = grid_size;
    grid.block = block_size;
    grid.body = std::move(body);
    grid.barrier = {};
    grid.error = nullptr;
    std::vector<uint3> indices;
    for (unsigned z = 0; z < grid_size.z; ++z)
        for (unsigned y = 0; y < grid_size.y; ++y)
            for (unsigned x = 0; x < grid_size.x; ++x) indices.push_back(make_uint3(x, y, z));
    Order order;
    if (together) {
        run_blocks(indices, shared, order);
        return;
    }
    std::vector<std::vector<uint3>> clusters;
    for (std::size_t i = 0; i < indices.size(); i += cluster)
        clusters.emplace_back(indices.begin() + i, indices.begin() + std::min(i + cluster, indices.size()));
    order.apply(clusters);
    for (const auto& blocks : clusters) run_blocks(blocks, shared, order);
}

}  // namespace emulator
}  // namespace vsad

#define threadIdx (::vsad::emulator::self().index)
#define blockIdx (::vsad::emulator::self().block->index)
#define blockDim (::vsad::emulator::current().block)
#define gridDim (::vsad::emulator::current().grid)
