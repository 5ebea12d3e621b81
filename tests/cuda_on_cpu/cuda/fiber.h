// Switches between stacks: a dozen instructions on x86-64; elsewhere swapcontext, which makes a system call.
#pragma once
#include <ucontext.h>

#include <cstddef>
#include <cstdint>

namespace vsad {
namespace emulator {

#if defined(__x86_64__)

struct Context {
    void* top = nullptr;  // top of the stack, where the callee-saved registers were pushed
};

extern "C" __attribute__((visibility("hidden"))) void vsad_emulator_switch(void** from, void* to);
__asm__(R"(
    .text
    .weak vsad_emulator_switch
    .hidden vsad_emulator_switch
    .type vsad_emulator_switch, @function
vsad_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size vsad_emulator_switch, .-vsad_emulator_switch
)");

inline void prepare(Context& context, unsigned char* stack, std::size_t bytes, void (*entry)()) {
    void** const end = reinterpret_cast<void**>(stack + bytes);
    end[-1] = nullptr;  // the return address of entry, which never returns
    end[-2] = reinterpret_cast<void*>(entry);
    for (int i = 3; i <= 8; ++i) end[-i] = nullptr;
    context.top = end - 8;
}
inline void switch_to(Context& from, Context& to) { vsad_emulator_switch(&from.top, to.top); }

#else

using Context = ucontext_t;

inline void prepare(Context& context, unsigned char* stack, std::size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
inline void switch_to(Context& from, Context& to) { swapcontext(&from, &to); }

#endif

}  // namespace emulator
}  // namespace vsad
