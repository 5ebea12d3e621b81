// How a kernel distributes its work to threads: as numbered items, with private scratch memory per thread.
#pragma once
#include <cstdint>

namespace vsad {

struct Work {
    std::int64_t items;
    std::int64_t threads;        // at most this many run
    std::int64_t scratch_bytes;  // scratch memory of each thread
    void (*run)(const void* arguments, std::int64_t item, char* scratch);
};

// Runs every item once; items start in the order of their numbers. The threads are torch's OpenMP threads where there
// is such a runtime. Elsewhere, and in a child that was forked after this module was loaded, they live for this call
// only.
void run_parallel(const Work& work, const void* arguments);

void yield_thread();

// The turn of an item among those that add to the same memory: they add in the order of their numbers, so that sums
// have the same bits every time.
struct Turn {
    std::int64_t* done;   // number of items that have added
    std::int64_t before;  // number of items that must add before this one

    __attribute__((always_inline)) void wait() const {
        int spins = 0;
        while (__atomic_load_n(done, __ATOMIC_ACQUIRE) != before)
            if (spins < 1000)
                ++spins;
            else
                yield_thread();  // after some microseconds: the item before may be waiting for a processor
    }
    __attribute__((always_inline)) void pass() const {
        wait();
        __atomic_store_n(done, before + 1, __ATOMIC_RELEASE);
    }
};
constexpr std::int64_t kTurnStride = 8;  // counters stand a cache line apart

}  // namespace vsad
