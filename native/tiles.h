// Products of a square matrix with values of rows that go side by side in lanes: what feedback spends its time in.
//
// The sums are those of a plain loop, one product after the other, so that tiles change no bit: a tile only keeps its
// sums in registers while many values pass by.
#pragma once

#include <cstring>
#include <vector>

#include "lanes.h"

namespace whisq::WHISQ_ISA {

// Columns whose sums are kept at once. With two groups there are twice as many sums, which have to fit the registers.
constexpr int kSide = kLanes == 16 ? 8 : 4;

// Columns of a tile, the same for every instruction set: a factor is prepared once and serves them all.
constexpr int kTile = 8;

// A matrix, its columns in tiles: what a tile reads of one row after the other is contiguous.
class Tiled {
   public:
    Tiled(const float* data, int64_t n_rows) : data_(data), n_rows_(n_rows) {}
    // Row and column; the next row of the same column is kTile further, the next column beside it until the tile ends.
    const float* at(int64_t row, int64_t column) const {
        return data_ + (column / kTile * n_rows_ + row) * kTile + column % kTile;
    }

   private:
    const float* data_;
    int64_t n_rows_;
};

// Columns from `begin` up to `end`.
struct Columns {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
};

// Take one[j] and two[j], each times its row of the matrix, off the columns `to` of two groups; j counts from
// rows.begin.
inline void take_off(const Tiled& matrix, Columns rows, const F* one, const F* two, Columns to, F* to_one, F* to_two) {
    for (int64_t c = to.begin; c < to.end; c += kSide) {
        F a[kSide], b[kSide];
        for (int k = 0; k < kSide; ++k) a[k] = to_one[c + k], b[k] = to_two[c + k];
        const float* tile = matrix.at(rows.begin, c);
        for (int64_t j = 0; j < rows.size(); ++j, tile += kTile) {
            const F u = one[j], v = two[j];
            for (int k = 0; k < kSide; ++k) {
                a[k] -= u * tile[k];
                b[k] -= v * tile[k];
            }
        }
        for (int k = 0; k < kSide; ++k) to_one[c + k] = a[k], to_two[c + k] = b[k];
    }
}

// Some rows of a matrix, and what each is multiplied by.
struct Changes {
    int64_t n;
    const int64_t* row;
    const F* by;
};

// The same for one group and the rows named only.
inline void take_off(const Tiled& matrix, const Changes& changes, Columns to, F* vector) {
    for (int64_t c = to.begin; c < to.end; c += kTile) {
        F sum[kTile];
        for (int k = 0; k < kTile; ++k) sum[k] = vector[c + k];
        for (int64_t i = 0; i < changes.n; ++i) {
            const F by = changes.by[i];
            const float* row = matrix.at(changes.row[i], c);
            for (int k = 0; k < kTile; ++k) sum[k] -= by * row[k];
        }
        for (int k = 0; k < kTile; ++k) vector[c + k] = sum[k];
    }
}

// Changes of a group, lane by lane: few, and seldom in many lanes of one column.
template <int64_t kMost>
struct LaneChanges {
    int64_t n[kLanes];
    int64_t row[kLanes][kMost];
    float by[kLanes][kMost];

    void clear() {
        for (int64_t& count : n) count = 0;
    }
    void add(int64_t from, F change) {
        for (int lane = 0; lane < kLanes; ++lane) {
            if (change[lane] == 0.f) continue;
            row[lane][n[lane]] = from;
            by[lane][n[lane]++] = change[lane];
        }
    }
};

// kLanes columns of a row, which are one tile, part of one, or two.
inline F columns_of(const Tiled& matrix, int64_t row, int64_t column) {
    F values;
    constexpr int kPart = kLanes < kTile ? kLanes : kTile;
    for (int k = 0; k < kLanes; k += kPart)
        std::memcpy((float*)&values + k, matrix.at(row, column + k), kPart * sizeof(float));
    return values;
}

// Columns that a lane's changes are taken off at once: what they are is then read seldom.
constexpr int kStrip = 32;

// The same for a strip of a vector that is turned: kLanes columns of one lane go side by side.
template <int64_t kMost>
void take_off(const Tiled& matrix, const LaneChanges<kMost>& changes, int64_t column, F* turned) {
    constexpr int kParts = kStrip / kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
        F sum[kParts];
        for (int part = 0; part < kParts; ++part) sum[part] = turned[column + part * kLanes + lane];
        for (int64_t i = 0; i < changes.n[lane]; ++i) {
            const float by = changes.by[lane][i];
            const int64_t row = changes.row[lane][i];
            for (int part = 0; part < kParts; ++part) sum[part] -= columns_of(matrix, row, column + part * kLanes) * by;
        }
        for (int part = 0; part < kParts; ++part) turned[column + part * kLanes + lane] = sum[part];
    }
}

// Turn some columns of a vector, or turn them back.
inline void turn(Columns columns, F* vector) {
    for (int64_t c = columns.begin; c < columns.end; c += kLanes) transpose(vector + c);
}

}  // namespace whisq::WHISQ_ISA
