// Bytes of every type by every method, as hashes: the same wherever the core is right.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace whisq {

struct SelfTestHash {
    std::string type;    // ggml's name
    std::string method;  // plain, importance, feedback, fit, decode or factor
    std::string hash;    // FNV-1a of what was written, 16 hexadecimal digits
};

// One hash for each type and method that the kernels have, in the order of the table. It takes a tenth of a second.
std::vector<SelfTestHash> self_test(const Kernels& kernels);

}  // namespace whisq
