// How a kernel hands its work to the threads: numbered items, each with a private scratch.
#pragma once
#include <cstdint>

namespace vsad {

struct Work {
    std::int64_t items;
    std::int64_t threads;        // at most
    std::int64_t scratch_bytes;  // per thread
    void (*run)(const void* arguments, std::int64_t item, char* scratch);
};

// Runs every item once; they start in the order of their numbers. The threads are torch's own where they can be had,
// else they live for this call only, as they do in a child that was forked after this module was loaded. (There torch's
// own operators may hang once torch's threads have run: that is OpenMP's.)
void run_parallel(const Work& work, const void* arguments);

void yield_thread();

// The turn of an item among those that add to the same place: items take it in the order of their numbers.
struct Turn {
    std::int64_t* done;   // how many items are done with the place
    std::int64_t before;  // how many of them come first

    __attribute__((always_inline)) void wait() const {
        int spins = 0;
        while (__atomic_load_n(done, __ATOMIC_ACQUIRE) != before)
            if (spins < 1000)
                ++spins;
            else
                yield_thread();  // after some microseconds: its holder may be waiting for a processor
    }
    __attribute__((always_inline)) void pass() const {
        wait();
        __atomic_store_n(done, before + 1, __ATOMIC_RELEASE);
    }
};
constexpr std::int64_t kTurnStride = 8;  // counters a cache line apart

}  // namespace vsad
