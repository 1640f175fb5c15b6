// Which instruction sets this build and this CPU have.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace whisq {

// The usable ones, best first; never empty.
std::vector<const Kernels*> available_kernels();

}  // namespace whisq
