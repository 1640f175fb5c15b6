// What the two passes of rounding with feedback share: how types write weights, and a group of rows on its way.
#pragma once

#include "codebook.h"
#include "group.h"
#include "tiles.h"

namespace whisq::WHISQ_ISA {

inline F value_of(const Levels& levels, F level) {
    return levels.book != nullptr ? value_at(*levels.book, level) : level;
}

// What a block holds for a level.
inline int8_t stored_integer(const Levels& levels, float level) {
    return levels.book != nullptr ? levels.book->stored[(int)level] : (int8_t)(int)(level - levels.low);
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
    const float* factor;  // row j, column k at factor[32 * j + k]
    const float* gain;
    int n;
};

// A group of rows on its way. Blocks are sub-blocks where there are such; units belong to super-blocks.
struct Rows {
    const FeedbackJob& job;
    int64_t row;  // the group's first; lanes beyond the last row repeat it
    F* weights;   // [n_columns]
    F* x;         // [n_columns] weights, corrected for earlier columns; then -gain * error; then the loss's gradient
    F* level;     // [n_columns] l of Levels
    F* moved;     // [kPanel] what goes from a panel's columns to the others: what rounding added to them
    F* scale;     // [blocks] as they decode
    F* offset;    // [blocks]
    F* integer;   // [blocks] of the scale, in super-blocks
    F* minimum;   // [blocks] integer of the minimum
    F* unit;      // [units]
    F* minimum_unit;
};

// Two groups, whose products are taken together.
struct Pair {
    Rows one, two;

    const Rows& operator[](int i) const { return i == 0 ? one : two; }
};

// Take what is moved in columns `from` of all pairs off their columns `to`: a tile of the matrix serves all of them
// while it is near.
inline void push_all(const std::vector<Pair>& pairs, const Tiled& matrix, Columns from, Columns to) {
    for (int64_t c = to.begin; c < to.end; c += kSide)
        for (const Pair& pair : pairs)
            take_off(matrix, from, pair.one.moved, pair.two.moved, {c, c + kSide}, pair.one.x, pair.two.x);
}

// Better integers and scales than the first pass found, in so many sweeps. See improve.cpp.
void improve(const std::vector<Pair>& pairs, const TypeRow& type, int n_sweeps);

}  // namespace whisq::WHISQ_ISA
