#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace whisq {

#define WHISQ_DECLARE(isa)        \
    namespace isa {               \
    extern const Kernels kernels; \
    }
#if defined(__x86_64__)
WHISQ_DECLARE(avx512)
WHISQ_DECLARE(avx2)
WHISQ_DECLARE(sse)
#elif defined(__aarch64__)
WHISQ_DECLARE(neon)
#else
WHISQ_DECLARE(portable)
#endif

#if defined(__x86_64__)
namespace {

struct Cpu {
    bool avx2 = false, avx512 = false;
};

// What the CPU has and the system saves. Not the compilers' own question: its answer is in a library that clang-cl does
// not link, and that said no to all under Windows as zig builds it.
Cpu this_cpu() {
    Cpu cpu;
    uint32_t a, b, c, d, saved, high;
    constexpr uint32_t kSaves = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29, kNeeded = kSaves | kAvx | kF16c;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kNeeded) != kNeeded) return cpu;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
    constexpr uint32_t kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31, kAll = kF | kDq | kBw | kVl;
    cpu.avx2 = (saved & 0x06) == 0x06 && (b & 1u << 5) != 0;
    cpu.avx512 = (saved & 0xe6) == 0xe6 && cpu.avx2 && (b & kAll) == kAll;
    return cpu;
}

}  // namespace
#endif

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    static const Cpu cpu = this_cpu();
    if (cpu.avx512) found.push_back(&avx512::kernels);
    if (cpu.avx2) found.push_back(&avx2::kernels);
    found.push_back(&sse::kernels);
#elif defined(__aarch64__)
    found.push_back(&neon::kernels);
#else
    found.push_back(&portable::kernels);
#endif
    return found;
}

}  // namespace whisq
