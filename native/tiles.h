// Products of a square matrix with values of rows that go side by side in lanes: what feedback spends its time in.
//
// The sums are those of a plain loop, one product after the other, so that tiles change no bit: a tile only keeps its
// sums in registers while many values pass by.
#pragma once

#include <vector>

#include "lanes.h"

namespace whisq::WHISQ_ISA {

// Columns of a tile. With two groups there are twice as many sums as columns, which have to fit the registers.
constexpr int kSide = kLanes == 16 ? 8 : 4;

// A square matrix, its columns in tiles: what a tile reads of one row after the other is contiguous.
class Tiled {
   public:
    Tiled(const float* matrix, int64_t n) : n_(n), data_(n * n) {
        for (int64_t row = 0; row < n; ++row)
            for (int64_t c = 0; c < n; c += kSide)
                std::memcpy(data_.data() + c * n + row * kSide, matrix + row * n + c, kSide * sizeof(float));
    }
    const float* tile(int64_t row, int64_t column) const { return data_.data() + column * n_ + row * kSide; }

   private:
    int64_t n_;
    std::vector<float> data_;
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
        const float* tile = matrix.tile(rows.begin, c);
        for (int64_t j = 0; j < rows.size(); ++j, tile += kSide) {
            const F u = one[j], v = two[j];
            for (int k = 0; k < kSide; ++k) {
                a[k] -= u * tile[k];
                b[k] -= v * tile[k];
            }
        }
        for (int k = 0; k < kSide; ++k) to_one[c + k] = a[k], to_two[c + k] = b[k];
    }
}

}  // namespace whisq::WHISQ_ISA
