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

// Runs every item once, in no particular order. The threads live for this call only, so a process may fork
// before and after it.
void run_parallel(const Work& work, const void* arguments);

}  // namespace vsad
