#include "cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace vsad {
namespace {

constexpr std::align_val_t kCacheLine{64};

struct AlignedDelete {
    void operator()(char* memory) const { ::operator delete[](memory, kCacheLine); }
};

}  // namespace

void run_parallel(const Work& work, const void* arguments) {
    const std::int64_t workers = std::max<std::int64_t>(1, std::min(work.threads, work.items));
    const std::int64_t bytes = (work.scratch_bytes + 63) / 64 * 64;
    std::unique_ptr<char[], AlignedDelete> scratch(new (kCacheLine) char[workers * bytes]);

    std::atomic<std::int64_t> next{0};
    const auto drain = [&](std::int64_t worker) {
        for (std::int64_t item; (item = next.fetch_add(1)) < work.items;)
            work.run(arguments, item, scratch.get() + worker * bytes);
    };
    std::vector<std::thread> team;
    team.reserve(workers - 1);
    try {
        for (std::int64_t worker = 1; worker < workers; ++worker) team.emplace_back(drain, worker);
    } catch (const std::system_error&) {
        // The system has no more threads to give: those that started, and this one, do all the work.
    }
    drain(0);
    for (std::thread& thread : team) thread.join();
}

}  // namespace vsad
