#include "cpu/parallel.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace vsad {
namespace {

constexpr std::align_val_t kCacheLine{64};

struct AlignedDelete {
    void operator()(char* memory) const { ::operator delete[](memory, kCacheLine); }
};

// A forked child has only the thread that forked; OpenMP does not notice and would wait for the others.
bool forked = false;
#if defined(__linux__)
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

// The OpenMP runtime that torch has loaded. Its threads keep spinning for milliseconds after each parallel region of
// torch, on the processors that threads of our own would need.
struct OpenMp {
    void (*start)(void (*fn)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
    int (*max_threads)() = nullptr;
};

OpenMp find_openmp() {
    OpenMp found;
#if defined(__linux__)
    std::string path;
    dl_iterate_phdr(
        [](dl_phdr_info* library, std::size_t, void* best) {
            const char* name = library->dlpi_name ? library->dlpi_name : "";
            const bool openmp = std::strstr(name, "libgomp") || std::strstr(name, "libiomp5");
            const bool from_torch = std::strstr(name, "/torch/lib/") || std::strstr(name, "/torch.libs/");
            if (openmp && (from_torch || static_cast<std::string*>(best)->empty()))
                *static_cast<std::string*>(best) = name;
            return 0;
        },
        &path);
    void* library = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (library) {
        found.start = reinterpret_cast<decltype(found.start)>(dlsym(library, "GOMP_parallel"));
        found.max_threads = reinterpret_cast<decltype(found.max_threads)>(dlsym(library, "omp_get_max_threads"));
    }
#endif
    return found;
}

// The OpenMP runtime, or null where this process cannot use one.
const OpenMp* usable_openmp() {
    static const OpenMp openmp = find_openmp();
    return forked || !openmp.start || !openmp.max_threads ? nullptr : &openmp;
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
    if (const OpenMp* openmp = workers > 1 ? usable_openmp() : nullptr) {
        std::atomic<std::int64_t> arrived{0};
        auto join = [&] {
            const std::int64_t worker = arrived.fetch_add(1);
            if (worker < workers) drain(worker);
        };
        // A team as large as torch's: OpenMP destroys the threads that a smaller team leaves over, and would have to
        // create them again for torch.
        const int team = std::max(int(workers), openmp->max_threads());
        openmp->start([](void* data) { (*static_cast<decltype(join)*>(data))(); }, &join, unsigned(team), 0);
        return;
    }
    std::vector<std::thread> team;
    team.reserve(workers - 1);
    try {
        for (std::int64_t worker = 1; worker < workers; ++worker) team.emplace_back(drain, worker);
    } catch (const std::exception&) {
        // The system refuses more threads: those that started, and this one, do all the work.
    }
    drain(0);
    for (std::thread& thread : team) thread.join();
}

}  // namespace vsad
