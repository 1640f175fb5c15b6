// What the two passes of rounding with feedback share: how types write weights, and a group of rows on its way.
#pragma once

#include "group.h"

namespace whisq::WHISQ_ISA {

// How a type writes a weight: scale * l + offset, l in [low, high]; or scale * value[l] of iq4's table.
struct Levels {
    float low, high;
    bool is_iq4;
};

inline F iq4_value(F index) {
    F value = splat((float)kIq4Values[0]);
    for (int k = 1; k < 16; ++k) value = select(index < (float)k, value, splat((float)kIq4Values[k]));
    return value;
}

inline F value_of(const Levels& levels, F level) { return levels.is_iq4 ? iq4_value(level) : level; }

inline F as_half(F value) {
    uint16_t halves[kLanes];
    return through_half(value, halves);
}

inline Levels levels_of(int type) {
    switch (type) {
        case kQ4_0:
            return {-8, 7, false};
        case kQ5_0:
            return {-16, 15, false};
        case kQ8_0:
            return {-127, 127, false};
        case kQ4_1:
        case kQ4_K:
            return {0, 15, false};
        case kQ5_1:
        case kQ5_K:
            return {0, 31, false};
        case kQ2_K:
            return {0, 3, false};
        case kQ3_K:
            return {-4, 3, false};
        case kQ6_K:
            return {-32, 31, false};
        default:
            return {0, 15, true};
    }
}

// What a super-block type does with its sub-blocks' scales.
struct SuperLayout {
    int n_sub, sub;             // sub-blocks, and weights in each
    int scale_low, scale_high;  // integers of a scale
    bool has_minimum;
};

inline SuperLayout super_layout(int type) {
    switch (type) {
        case kQ2_K:
            return {16, 16, 0, 15, true};
        case kQ3_K:
            return {16, 16, -32, 31, false};
        case kQ6_K:
            return {16, 16, -128, 127, false};
        case kIQ4_XS:
            return {8, 32, -32, 31, false};
        default:
            return {8, 32, 0, 63, true};
    }
}

// One sub-block under feedback: its columns' weights, and the part of the factor inside it.
struct Block {
    const F* x;           // [n] weights, already corrected by earlier columns
    const float* factor;  // row j, column k at factor[j * stride + k]
    int64_t stride;
    const float* gain;
    int n;
};

// A group of rows on its way. Blocks are sub-blocks where there are such; units belong to super-blocks.
struct Rows {
    const FeedbackJob& job;
    F* x;        // [n_columns] weights, corrected by the errors of earlier columns
    F* level;    // [n_columns] l, or for iq4 the index
    F* scale;    // [blocks] as they decode
    F* offset;   // [blocks]
    F* integer;  // [blocks] of the scale, in super-blocks
    F* minimum;  // [blocks] integer of the minimum
    F* unit;     // [units]
    F* minimum_unit;
    F* gradient;  // [n_columns]

    Block block(int64_t begin, int n) const {
        return {x + begin, job.factor + begin * job.n_columns + begin, job.n_columns, job.gain + begin, n};
    }

    // Take values of a block's columns, times their rows of a matrix, off all columns from `from` on.
    // A few columns at a time, so that their sums do not wait for each other.
    void push(F* to, const float* matrix, int64_t begin, const F* values, int n, int64_t from) const {
        constexpr int kSide = 8;
        F moved[32];
        const float* row[32];
        int n_moved = 0;
        for (int j = 0; j < n; ++j) {
            if (!any(values[j] != 0.f)) continue;
            moved[n_moved] = values[j];
            row[n_moved++] = matrix + (begin + j) * job.n_columns;
        }
        for (int64_t c = from; c < job.n_columns; c += kSide) {
            F sums[kSide];
            for (int k = 0; k < kSide; ++k) sums[k] = to[c + k];
            for (int j = 0; j < n_moved; ++j)
                for (int k = 0; k < kSide; ++k) sums[k] -= moved[j] * row[j][c + k];
            for (int k = 0; k < kSide; ++k) to[c + k] = sums[k];
        }
    }
};

// Better integers and scales than the first pass found, in so many sweeps; `row` is the group's first. See improve.cpp.
void improve(const Rows& rows, int64_t row, int n_sweeps);

}  // namespace whisq::WHISQ_ISA
