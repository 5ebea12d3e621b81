#include "cpu/parallel.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace vsad {
namespace {

constexpr std::align_val_t kCacheLine{64};

struct AlignedDelete {
    void operator()(char* memory) const { ::operator delete[](memory, kCacheLine); }
};

// A child process has no threads but the one that forked, and OpenMP does not know.
bool forked = false;
#if defined(__linux__)
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

// Starts a team of the OpenMP that torch has loaded: fn(data) on `threads` threads at most. After each of torch's own
// parallel regions its threads spin for milliseconds, on the processors that threads of ours would need.
using Team = void (*)(void (*fn)(void*), void* data, unsigned threads, unsigned flags);

Team find_team() {
#if defined(__linux__)
    std::string path;
    dl_iterate_phdr(
        [](dl_phdr_info* library, std::size_t, void* found) {
            const char* name = library->dlpi_name ? library->dlpi_name : "";
            const bool openmp = std::strstr(name, "libgomp") || std::strstr(name, "libiomp5");
            if (openmp && (std::strstr(name, "torch") || static_cast<std::string*>(found)->empty()))
                *static_cast<std::string*>(found) = name;
            return 0;
        },
        &path);
    void* library = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
    return library ? reinterpret_cast<Team>(dlsym(library, "GOMP_parallel")) : nullptr;
#else
    return nullptr;
#endif
}

Team team_here() {
    static const Team team = find_team();
    return forked ? nullptr : team;
}

}  // namespace

void yield_thread() { std::this_thread::yield(); }

void run_parallel(const Work& work, const void* arguments) {
    const std::int64_t workers = std::max<std::int64_t>(1, std::min(work.threads, work.items));
    const std::int64_t bytes = (work.scratch_bytes + 63) / 64 * 64;
    std::unique_ptr<char[], AlignedDelete> scratch(new (kCacheLine) char[workers * bytes]);

    std::atomic<std::int64_t> next{0};
    const auto drain = [&](std::int64_t worker) {
        for (std::int64_t item; (item = next.fetch_add(1)) < work.items;)
            work.run(arguments, item, scratch.get() + worker * bytes);
    };
    if (const Team start = workers > 1 ? team_here() : nullptr) {
        std::atomic<std::int64_t> arrived{0};
        auto join = [&] { drain(arrived.fetch_add(1)); };
        start([](void* data) { (*static_cast<decltype(join)*>(data))(); }, &join, unsigned(workers), 0);
        return;
    }
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
