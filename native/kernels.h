// What the bindings ask of every instruction set. Sizes are in weights or blocks; nothing here allocates.
#pragma once

#include <cstddef>
#include <cstdint>

namespace whisq {

// Numbers of ggml's enum ggml_type.
enum Type : int {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ2_K = 10,
    kQ3_K = 11,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kIQ4_NL = 20,
    kIQ4_XS = 23,
    kBF16 = 30,
};

// The values that the indices of iq4_nl and iq4_xs stand for.
alignas(16) inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                      1,    13,   25,  38,  53,  69,  89,  113};

struct Tally {
    int64_t nan = 0, infinite = 0, overflow = 0;
};

struct Job {
    const void* source;    // n_rows * n_columns weights, row after row
    int source_type;       // kF32, kF16 or kBF16
    uint8_t* destination;  // n_rows * row bytes
    int type;
    int64_t n_rows, n_columns;
    const float* importance;  // n_columns values, or null
};

// Rounding with error feedback; sizes of the outputs are in the comments. Types with blocks of 32 have one unit a
// block and no integers; types with super-blocks of 256 have one unit a super-block, and integers for each sub-block.
struct FeedbackJob {
    const float* weights;  // [n_rows, n_columns]
    const float* factor;   // [n_columns, n_columns] upper triangular, unit diagonal
    const float* gain;     // [n_columns]
    const float* moment;   // [n_columns, n_columns] damped second moment
    int type;
    int64_t n_rows, n_columns;
    int n_sweeps;             // of the second pass
    int8_t* levels;           // [n_rows, n_columns] stored integers
    float* units;             // [n_rows, units]
    float* minimum_units;     // [n_rows, units] offset of a ranged block, or unit of the sub-blocks' minimums
    float* scale_integers;    // [n_rows, sub-blocks]
    float* minimum_integers;  // [n_rows, sub-blocks]
};

struct Kernels {
    const char* name;
    // True when the job's types are known; the caller has checked sizes.
    bool (*quantize)(const Job&, Tally&);
    bool (*dequantize)(const uint8_t* source, int type, float* destination, int64_t n_weights);
    bool (*feedback)(const FeedbackJob&);
};

inline int block_size(int type) {
    switch (type) {
        case kF32:
        case kF16:
        case kBF16:
            return 1;
        case kQ4_0:
        case kQ4_1:
        case kQ5_0:
        case kQ5_1:
        case kQ8_0:
        case kIQ4_NL:
            return 32;
        case kQ2_K:
        case kQ3_K:
        case kQ4_K:
        case kQ5_K:
        case kQ6_K:
        case kIQ4_XS:
            return 256;
        default:
            return 0;
    }
}

inline int block_bytes(int type) {
    switch (type) {
        case kF32:
            return 4;
        case kF16:
        case kBF16:
            return 2;
        case kQ4_0:
        case kIQ4_NL:
            return 18;
        case kQ4_1:
            return 20;
        case kQ5_0:
            return 22;
        case kQ5_1:
            return 24;
        case kQ8_0:
            return 34;
        case kQ2_K:
            return 84;
        case kQ3_K:
            return 110;
        case kQ4_K:
            return 144;
        case kQ5_K:
            return 176;
        case kQ6_K:
            return 210;
        case kIQ4_XS:
            return 136;
        default:
            return 0;
    }
}

}  // namespace whisq
