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
// only. Once the call is abandoned no more items start; when those that did have returned, it throws Abandoned.
void run_parallel(const Work& work, const void* arguments);

// Whether the call that this thread works for is abandoned (Ctrl-C). An item that takes longer than some ten
// milliseconds must ask now and then, and return; but not one that others wait for (see Turn).
bool abandoned();

// Asks about once per kOperations multiply-adds of a loop.
class Patience {
  public:
    __attribute__((always_inline)) explicit Patience(std::int64_t operations_per_step)
        : every_(1 + kOperations / (operations_per_step + 1)), left_(every_) {}

    __attribute__((always_inline)) bool ends() {
        if (--left_ > 0) return false;
        left_ = every_;
        return abandoned();
    }

  private:
    static constexpr std::int64_t kOperations = 1 << 22;  // about a millisecond; asking takes some 30 ns

    std::int64_t every_, left_;
};

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
