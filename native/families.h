// The families of types: each gives the kernel that quantizes one group of blocks.
#pragma once

#include "group.h"

namespace whisq::WHISQ_ISA {

// Takes a loaded group and writes every lane's block.
using GroupKernel = void (*)(const Group&);

// With importance: one block in a lane, or two, whose searches then go side by side.
GroupKernel legacy_kernel(int type);
GroupKernel legacy_pair_kernel(int type);
GroupKernel k_kernel(int type);
GroupKernel iq4_kernel(int type);

extern const Kernels kernels;

// q4_0 to q8_0 without importance; false for other types.
bool round_blocks(const Job& job, Watch& watch);

bool quantize(const Job& job, Tally& tally);
bool feedback(const FeedbackJob& job);
bool dequantize(const uint8_t* source, int type, float* destination, int64_t n_weights);

}  // namespace whisq::WHISQ_ISA
