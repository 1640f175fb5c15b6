#include "dispatch.h"

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

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found.push_back(&avx512::kernels);
    // Every CPU with AVX2 has F16C too.
    if (__builtin_cpu_supports("avx2")) found.push_back(&avx2::kernels);
    found.push_back(&sse::kernels);
#elif defined(__aarch64__)
    found.push_back(&neon::kernels);
#else
    found.push_back(&portable::kernels);
#endif
    return found;
}

}  // namespace whisq
