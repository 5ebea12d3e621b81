// A call of the module, which Ctrl-C may abandon while its kernels run. Only for what is compiled into the module:
// standard templates do not belong in kernels (cpu/arena.h).
#pragma once
#include <atomic>
#include <chrono>

namespace vsad {

// Leaves the module as the Python exception that is set.
struct Abandoned {};

// Set by the module: handles signals that have arrived; returns whether a handler raised. Null: nothing interrupts.
extern bool (*interrupted)();

// Lives as long as a call does, in the thread that makes it. The calling thread alone looks for signals; all threads
// that work for the call see what it found.
class Call {
  public:
    Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call();

    bool is_of_this_thread() const;
    bool abandoned();

  private:
    using Clock = std::chrono::steady_clock;

    Call* const outer_;          // the call of this thread in which a signal handler made this one
    Call* const* const thread_;  // the thread that makes the call, by the address of a variable of its own
    Clock::time_point next_look_;
    std::atomic<bool> abandoned_{false};
};

// Throws Abandoned if the call that this thread makes is abandoned.
void throw_if_abandoned();

}  // namespace vsad
