// What the two passes of rounding with feedback share: how types write weights, and a group of rows on its way.
#pragma once

#include "group.h"

namespace whisq::WHISQ_ISA {

// The value at an index of a codebook.
inline F value_at(const Codebook& book, F index) {
    F value = splat(book.value[0]);
    for (int k = 1; k < 16; ++k) value = select(index < (float)k, value, splat(book.value[k]));
    return value;
}

// The index of the value nearest to x, the upper one at a tie.
inline F nearest_index(const Codebook& book, F x) {
    F index = F{};
    for (int k = 1; k < 16; ++k) index = select(x < book.threshold[k], index, splat((float)k));
    return index;
}

inline F value_of(const Levels& levels, F level) {
    return levels.book != nullptr ? value_at(*levels.book, level) : level;
}

inline F as_half(F value) {
    uint16_t halves[kLanes];
    return through_half(value, halves);
}

// The nearest power of two, from 2^-126 to 2^124; what is not positive gives the least.
inline F as_power_of_two(F value) {
    const F power = (F)((bits_of(value) + 0x00400000) & 0x7f800000);
    const F least = splat(0x1p-126f), most = splat(0x1p124f);
    return select(value > 0.f, minimum(maximum(power, least), most), least);
}

// The scale that a block decodes with when it is to have this one.
inline F as_written(const Levels& levels, F scale) {
    return levels.scale_as == ScaleAs::kPowerOfTwo ? as_power_of_two(scale) : as_half(scale);
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
    F* level;    // [n_columns] l of Levels
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
void improve(const Rows& rows, const TypeRow& type, int64_t row, int n_sweeps);

}  // namespace whisq::WHISQ_ISA
