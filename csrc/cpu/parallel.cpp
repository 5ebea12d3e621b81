#include "cpu/parallel.h"

#include "cpu/call.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
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

// Ctrl-C should take effect within 200 ms. Looking takes Python's lock, for which a busy Python thread lets us wait
// 5 ms.
constexpr std::chrono::milliseconds kBetweenLooks{50};
constexpr std::chrono::milliseconds kSpun{1};  // of waiting for the last items: most end sooner than a thread wakes up

thread_local Call* mine = nullptr;  // the call that this thread works for

// The OpenMP runtime, or null where this process cannot use one.
const OpenMp* usable_openmp() {
    static const OpenMp openmp = find_openmp();
    return forked || !openmp.start || !openmp.max_threads ? nullptr : &openmp;
}

// Calls drain(0), ..., drain(workers - 1), each in a thread of its own, the first in this one, and look after it.
template <typename Drain, typename Look>
void run_in_threads(std::int64_t workers, const Drain& drain, const Look& look) {
    std::vector<std::thread> team;
    team.reserve(workers - 1);
    try {
        for (std::int64_t worker = 1; worker < workers; ++worker) team.emplace_back(drain, worker);
    } catch (const std::exception&) {
        // The system refuses more threads: those that started, and this one, do all the work.
    }
    drain(0);
    look();
    for (std::thread& thread : team) thread.join();
}

}  // namespace

bool (*interrupted)() = nullptr;

Call::Call() : outer_(mine), thread_(&mine), next_look_(Clock::now() + kBetweenLooks) { mine = this; }

Call::~Call() { mine = outer_; }

bool Call::is_of_this_thread() const { return thread_ == &mine; }

bool Call::abandoned() {
    if (is_of_this_thread() && !abandoned_ && Clock::now() >= next_look_) {
        if (interrupted && interrupted()) abandoned_ = true;
        next_look_ = Clock::now() + kBetweenLooks;
    }
    return abandoned_.load(std::memory_order_relaxed);
}

bool abandoned() { return mine && mine->abandoned(); }

void throw_if_abandoned() {
    if (abandoned()) throw Abandoned();
}

void yield_thread() { std::this_thread::yield(); }

void run_parallel(const Work& work, const void* arguments) {
    const std::int64_t workers = std::max<std::int64_t>(1, std::min(work.threads, work.items));
    const std::int64_t bytes = (work.scratch_bytes + 63) / 64 * 64;
    std::unique_ptr<char[], AlignedDelete> scratch(new (kCacheLine) char[workers * bytes]);

    std::atomic<std::int64_t> next{0}, finished{0};
    std::mutex mutex;
    std::condition_variable all_finished;
    Call* const call = mine;
    const auto drain = [&](std::int64_t worker) {
        Call* const before = mine;
        mine = call;
        // An item that has started runs to its end: it may be one that others, which started later, wait for.
        for (std::int64_t item; !abandoned() && (item = next.fetch_add(1)) < work.items;) {
            work.run(arguments, item, scratch.get() + worker * bytes);
            if (++finished == work.items) {
                const std::lock_guard<std::mutex> lock(mutex);
                all_finished.notify_one();
            }
        }
        mine = before;
    };
    // The calling thread looks for signals, even when no item is left for it, until the others have finished theirs. It
    // waits on a condition: sleep_for would never return while signals come faster than the system's timers are exact.
    const auto look = [&] {
        if (!call || !call->is_of_this_thread()) return;
        const auto over = [&] { return finished == work.items || abandoned(); };
        const auto start = std::chrono::steady_clock::now();
        while (!over() && std::chrono::steady_clock::now() - start < kSpun) std::this_thread::yield();
        while (!over()) {
            std::unique_lock<std::mutex> lock(mutex);
            all_finished.wait_for(lock, kBetweenLooks, [&] { return finished == work.items; });
        }
    };
    if (const OpenMp* openmp = workers > 1 ? usable_openmp() : nullptr) {
        std::atomic<std::int64_t> arrived{0};
        auto join = [&] {
            const std::int64_t worker = arrived.fetch_add(1);
            if (worker < workers) drain(worker);
            look();
        };
        // A team as large as torch's: OpenMP destroys the threads that a smaller team leaves over, and would have to
        // create them again for torch.
        const int team = std::max(int(workers), openmp->max_threads());
        openmp->start([](void* data) { (*static_cast<decltype(join)*>(data))(); }, &join, unsigned(team), 0);
    } else {
        run_in_threads(workers, drain, look);
    }
    throw_if_abandoned();
}

}  // namespace vsad
