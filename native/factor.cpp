// The factor that feedback rounds with, from a layer's damped second moment H = V diag(gain) V^T, V unit upper
// triangular.
//
// With rows and columns reversed H is S^T S, S upper (Cholesky): column k of V is S's row k from the end, reversed and
// divided by its diagonal, whose square is the gain. It goes by panels of rows, each made when all above it are there.
// Every element's sum is that of the plain loops, in float32, so that a factor, and with it the bytes of a file, are
// the same on every machine, as no BLAS library's would be.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>
#include <vector>

#include "families.h"
#include "tiles.h"

namespace whisq::WHISQ_ISA {
namespace {

constexpr int64_t kRows = 64;          // of a panel
constexpr int64_t kWide = 2 * kLanes;  // columns of a tile
constexpr int64_t kAtOnce = 256;       // rows whose products are taken while a tile is near

// S: its columns in tiles, of each row two vectors. Below the diagonal is what happens to be there, and much of it no
// memory yet.
class Square {
   public:
    explicit Square(int64_t n) : n_(n) {
        memory_ = std::calloc(n * n * sizeof(float) + sizeof(F), 1);
        if (memory_ == nullptr) throw std::bad_alloc();
        const uintptr_t place = (uintptr_t)memory_;
        vectors_ = (F*)(place + (sizeof(F) - place % sizeof(F)) % sizeof(F));
    }
    ~Square() { std::free(memory_); }
    Square(const Square&) = delete;
    Square& operator=(const Square&) = delete;

    int64_t size() const { return n_; }
    F* vectors(int64_t row, int64_t column) const { return vectors_ + (column / kWide * n_ + row) * 2; }
    float& at(int64_t row, int64_t column) const { return ((float*)vectors(row, column))[column % kWide]; }

   private:
    int64_t n_;
    void* memory_;
    F* vectors_;
};

// A panel's own columns of all rows above it, as the products read them: those of kSide columns side by side.
class Factors {
   public:
    explicit Factors(int64_t n) : n_(n), values_(n * kRows) {}
    void take(const Square& square, int64_t panel) {
        for (int64_t r = 0; r < kRows; ++r)
            for (int64_t k = 0; k < panel; ++k)
                values_[(r / kSide * n_ + k) * kSide + r % kSide] = square.at(k, panel + r);
    }
    const float* of(int64_t r, int64_t k) const { return values_.data() + (r / kSide * n_ + k) * kSide; }

   private:
    int64_t n_;
    std::vector<float> values_;
};

// Take the products of the rows above a panel off a tile of it.
void take_products(const Square& square, const Factors& factors, int64_t panel, int64_t column) {
    for (int64_t first = 0; first < panel; first += kAtOnce) {
        const int64_t end = first + kAtOnce < panel ? first + kAtOnce : panel;
        for (int64_t r = 0; r < kRows && panel + r < column + kWide; r += kSide) {
            F a[kSide], b[kSide];
            F* to = square.vectors(panel + r, column);
            for (int k = 0; k < kSide; ++k) a[k] = to[2 * k], b[k] = to[2 * k + 1];
            const F* vectors = square.vectors(first, column);
            const float* factor = factors.of(r, first);
            for (int64_t j = first; j < end; ++j, factor += kSide, vectors += 2) {
                const F u = vectors[0], v = vectors[1];
                for (int k = 0; k < kSide; ++k) {
                    a[k] -= u * factor[k];
                    b[k] -= v * factor[k];
                }
            }
            for (int k = 0; k < kSide; ++k) to[2 * k] = a[k], to[2 * k + 1] = b[k];
        }
    }
}

// Make a tile of a panel rows of S, from the first to the last. False where the matrix is not positive definite.
bool finish(const Square& square, int64_t panel, int64_t column, float* diagonal) {
    for (int64_t k = panel; k < panel + kRows && k < column + kWide; ++k) {
        F* row = square.vectors(k, column);
        if (k >= column) {
            const float value = square.at(k, k);
            if (!(value > 0.f) || !(value < 3e38f)) return false;
            diagonal[k] = std::sqrt(value);
        }
        const F a = row[0] / diagonal[k], b = row[1] / diagonal[k];
        row[0] = a, row[1] = b;
        for (int64_t r = k + 1; r < panel + kRows && r < column + kWide; ++r) {
            const float factor = square.at(k, r);
            row += 2;
            row[0] -= a * factor, row[1] -= b * factor;
        }
    }
    return true;
}

// The moment's rows of a panel that are in a tile, reversed; beyond the moment it is the unit matrix.
void load_tile(const FactorJob& job, const Square& square, int64_t panel, int64_t column) {
    const int64_t n = job.n_columns;
    for (int64_t r = panel; r < panel + kRows; ++r) {
        float* to = (float*)square.vectors(r, column);
        const float* from = job.undamped + (n - 1 - r) * n + (n - 1 - column);
        for (int64_t c = 0; c < kWide; ++c) to[c] = r < n && column + c < n ? from[-c] : r == column + c ? 1.f : 0.f;
        if (r < n && r >= column && r < column + kWide) to[r - column] += job.damping;
    }
}

// Find S; its diagonal apart, too. False where the moment is not positive definite.
bool cholesky(const FactorJob& job, const Square& square, float* diagonal) {
    const int64_t n = square.size();
    Factors factors(n);
    for (int64_t panel = 0; panel < n; panel += kRows) {
        factors.take(square, panel);
        for (int64_t column = panel; column < n; column += kWide) {
            load_tile(job, square, panel, column);
            take_products(square, factors, panel, column);
            if (!finish(square, panel, column, diagonal)) return false;
        }
    }
    return true;
}

// V, an element of its upper triangle or the diagonal, from S: see above.
class Triangle {
   public:
    Triangle(const Square& square, const float* diagonal, int64_t n) : square_(square), n_(n), inverse_(n) {
        for (int64_t k = 0; k < n; ++k) inverse_[k] = 1.f / diagonal[n - 1 - k];
    }
    float operator()(int64_t j, int64_t k) const { return square_.at(n_ - 1 - k, n_ - 1 - j) * inverse_[k]; }

   private:
    const Square& square_;
    int64_t n_;
    std::vector<float> inverse_;
};

// Both triangles of V, in tiles: a square of eight by eight above the diagonal gives its mirror image too.
void put_triangle(const Triangle& triangle, int64_t n, float* tiles) {
    const auto place = [&](int64_t row, int64_t column) { return tiles + (column / kTile * n + row) * kTile; };
    for (int64_t row = 0; row < n; row += kTile) {
        for (int64_t column = row; column < n; column += kTile) {
            for (int64_t j = row; j < row + kTile && j < n; ++j) {
                for (int64_t k = column; k < column + kTile; ++k) {
                    const float value = k == j ? 1.f : k < j || k >= n ? 0.f : triangle(j, k);
                    if (row != column || k >= j || k >= n) place(j, column)[k - column] = value;
                    if (k < n && k >= j) place(k, row)[j - row] = value;
                }
            }
        }
    }
    // The last tile of rows that are not a whole number of tiles.
    for (int64_t j = 0; n % kTile != 0 && j < n; ++j)
        for (int64_t k = n; k < (n + kTile - 1) / kTile * kTile; ++k) place(j, k)[k % kTile] = 0.f;
}

// Inverses of V's diagonal blocks, a panel each, in tiles; only what is strictly above the diagonal is not zero.
void put_inside(const Triangle& triangle, int64_t n, float* inside) {
    std::vector<float> rows(kPanel * kPanel);
    for (int64_t begin = 0; begin < n; begin += kPanel, inside += kPanel * kPanel) {
        const int64_t size = begin + kPanel < n ? kPanel : n - begin;
        std::fill(rows.begin(), rows.end(), 0.f);
        for (int64_t j = size - 1; j >= 0; --j) {
            float* row = rows.data() + j * kPanel;
            row[j] = 1.f;
            for (int64_t k = j + 1; k < size; ++k) {
                const float value = triangle(begin + j, begin + k);
                const float* other = rows.data() + k * kPanel;
                for (int64_t c = k / kTile * kTile; c < kPanel; ++c) row[c] -= value * other[c];
            }
        }
        for (int64_t j = 0; j < kPanel; ++j) {
            rows[j * kPanel + j] = 0.f;
            for (int64_t c = 0; c < kPanel; c += kTile)
                std::memcpy(inside + c * kPanel + j * kTile, rows.data() + j * kPanel + c, kTile * sizeof(float));
        }
    }
}

void put_moment(const FactorJob& job) {
    const int64_t n = job.n_columns;
    for (int64_t row = 0; row < n; ++row) {
        for (int64_t c = 0; c < n; c += kTile) {
            const int64_t size = n - c < kTile ? n - c : kTile;
            float* tile = job.moment + (c / kTile * n + row) * kTile;
            std::memcpy(tile, job.undamped + row * n + c, size * sizeof(float));
            if (row >= c && row < c + kTile) tile[row - c] += job.damping;
            for (int64_t k = size; k < kTile; ++k) tile[k] = 0.f;
        }
    }
}

// Solve V x = y in place for two groups of right-hand sides side by side, of which nothing from `end` on is not zero.
void solve(const Tiled& triangle, int64_t end, F* one, F* two) {
    for (int64_t begin = (end - 1) / kPanel * kPanel; begin >= 0; begin -= kPanel) {
        const int64_t panel_end = begin + kPanel < end ? begin + kPanel : end;
        for (int64_t tile = (panel_end - 1) / kTile * kTile; tile >= begin; tile -= kTile) {
            const int64_t tile_end = tile + kTile < panel_end ? tile + kTile : panel_end;
            for (int64_t k = tile_end - 1; k > tile; --k) {
                for (int64_t j = tile; j < k; ++j) {
                    const float value = *triangle.at(k, j);
                    one[j] -= one[k] * value;
                    two[j] -= two[k] * value;
                }
            }
            take_off(triangle, {tile, tile_end}, one + tile, two + tile, {begin, tile}, one, two);
        }
        take_off(triangle, {begin, panel_end}, one + begin, two + begin, {0, begin}, one, two);
    }
}

}  // namespace

bool factor(const FactorJob& job) {
    const int64_t n = job.n_columns, padded = (n + kRows - 1) / kRows * kRows;
    const Square square(padded);
    std::vector<float> diagonal(padded);
    if (!cholesky(job, square, diagonal.data())) return false;
    if (job.triangle == nullptr) return true;
    for (int64_t i = 0; i < n; ++i) job.gain[i] = diagonal[n - 1 - i] * diagonal[n - 1 - i];
    const Triangle triangle(square, diagonal.data(), n);
    put_triangle(triangle, n, job.triangle);
    put_inside(triangle, n, job.inside);
    put_moment(job);
    return true;
}

void invert(const float* triangle, int64_t n_columns, float* upper) {
    const Tiled tiles(triangle, n_columns);
    const int64_t rows = (n_columns + kTile - 1) / kTile * kTile;
    F* one = new F[2 * rows];
    F* two = one + rows;
    for (int64_t column = 0; column < n_columns; column += 2 * kLanes) {
        const int64_t end = column + 2 * kLanes < n_columns ? column + 2 * kLanes : n_columns;
        for (int64_t row = 0; row < 2 * rows; ++row) one[row] = F{};
        const auto at = [&](int64_t row, int64_t k) -> float& {
            return ((float*)(k < column + kLanes ? one : two))[row * kLanes + (k - column) % kLanes];
        };
        for (int64_t k = column; k < end; ++k) at(k, k) = 1.f;
        solve(tiles, end, one, two);
        for (int64_t row = 0; row < n_columns; ++row)
            for (int64_t k = column; k < end; ++k) upper[row * n_columns + k] = at(row, k);
    }
    delete[] one;
}

}  // namespace whisq::WHISQ_ISA
