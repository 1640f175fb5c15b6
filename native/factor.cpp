// The factor that feedback rounds with, from a layer's damped second moment H: U upper, H^-1 = U^T U.
//
// With rows and columns reversed H is S^T S, S upper (Cholesky), and U is the inverse of S reversed along its other
// diagonal. Both steps go by panels of rows, right-looking. Every element's sum is that of the plain loops, in float32,
// so that a factor, and with it the bytes of a file, are the same on every machine, as no BLAS library's would be.
#include <cmath>
#include <vector>

#include "families.h"
#include "tiles.h"

namespace whisq::WHISQ_ISA {
namespace {

constexpr int64_t kRows = 64;  // of a panel
constexpr int64_t kWide = 2 * kLanes;

class Square {
   public:
    explicit Square(int64_t n) : n_(n), vectors_(new F[n * n / kLanes]{}) {}
    ~Square() { delete[] vectors_; }
    Square(const Square&) = delete;
    Square& operator=(const Square&) = delete;

    int64_t size() const { return n_; }
    float* row(int64_t r) { return (float*)vectors_ + r * n_; }
    F* vectors(int64_t r, int64_t column) { return vectors_ + (r * n_ + column) / kLanes; }

   private:
    int64_t n_;
    F* vectors_;
};

// Take `times` another row off a row, from a column on (or a little before it, where nothing is read).
void take_row(F* row, const F* other, float times, int64_t n_vectors) {
    for (int64_t v = 0; v < n_vectors; ++v) row[v] -= times * other[v];
}

// A panel's rows as the products read them: element j of each column's vectors, and of the rows' own factors, side by
// side.
struct Packed {
    std::vector<float> factors;  // [rows / kSide][kRows][kSide]
    F* vectors;                  // [columns / kWide][kRows][2]
    explicit Packed(int64_t n) : factors(n * kRows), vectors(new F[n * kRows / kLanes]) {}
    ~Packed() { delete[] vectors; }
    Packed(const Packed&) = delete;
    Packed& operator=(const Packed&) = delete;

    void set_factor(int64_t row, int64_t j, float value) {
        factors[(row / kSide * kRows + j) * kSide + row % kSide] = value;
    }
    void take_vectors(Square& from, int64_t panel, int64_t column) {
        for (int64_t c = column; c < from.size(); c += kWide)
            for (int64_t j = 0; j < kRows; ++j)
                for (int half : {0, 1}) vectors[(c / kWide * kRows + j) * 2 + half] = from.vectors(panel + j, c)[half];
    }
};

// Take the products of a panel's factors and vectors off a block of the square.
void take_products(Square& square, const Packed& packed, Columns rows, Columns columns, bool only_upper) {
    for (int64_t c = columns.begin; c < columns.end; c += kWide) {
        const F* vectors = packed.vectors + c / kWide * kRows * 2;
        const int64_t end = only_upper && c + kWide < rows.end ? c + kWide : rows.end;
        for (int64_t r = rows.begin; r < end; r += kSide) {
            F a[kSide], b[kSide];
            for (int k = 0; k < kSide; ++k) a[k] = square.vectors(r + k, c)[0], b[k] = square.vectors(r + k, c)[1];
            const float* factors = packed.factors.data() + r * kRows;
            for (int64_t j = 0; j < kRows; ++j, factors += kSide) {
                const F u = vectors[2 * j], v = vectors[2 * j + 1];
                for (int k = 0; k < kSide; ++k) {
                    a[k] -= u * factors[k];
                    b[k] -= v * factors[k];
                }
            }
            for (int k = 0; k < kSide; ++k) square.vectors(r + k, c)[0] = a[k], square.vectors(r + k, c)[1] = b[k];
        }
    }
}

int64_t whole_vectors(int64_t column) { return column / kLanes * kLanes; }

// Turn a matrix, of which the upper triangle is read, into S. False where it is not positive definite.
bool cholesky(Square& square) {
    const int64_t n = square.size();
    Packed packed(n);
    for (int64_t panel = 0; panel < n; panel += kRows) {
        const int64_t beyond = panel + kRows;
        for (int64_t k = panel; k < beyond; ++k) {
            float* row = square.row(k);
            if (!(row[k] > 0.f) || !(row[k] < 3e38f)) return false;
            const float root = std::sqrt(row[k]);
            for (int64_t c = k; c < n; ++c) row[c] /= root;
            for (int64_t r = k + 1; r < beyond; ++r) {
                const int64_t from = whole_vectors(r);
                take_row(square.vectors(r, from), square.vectors(k, from), row[r], (n - from) / kLanes);
            }
        }
        packed.take_vectors(square, panel, beyond);
        for (int64_t j = 0; j < kRows; ++j)
            for (int64_t r = beyond; r < n; ++r) packed.set_factor(r, j, square.row(panel + j)[r]);
        take_products(square, packed, {beyond, n}, {beyond, n}, true);
    }
    return true;
}

// Turn S into its inverse, from the last panel to the first.
void invert(Square& square) {
    const int64_t n = square.size();
    Packed packed(n);
    std::vector<float> own(kRows * kRows);
    for (int64_t panel = n - kRows; panel >= 0; panel -= kRows) {
        for (int64_t k = 0; k < kRows; ++k) {
            float* row = square.row(panel + k) + panel;
            for (int64_t j = 0; j < kRows; ++j) own[k * kRows + j] = row[j], row[j] = j == k ? 1.f : 0.f;
        }
        for (int64_t k = kRows - 1; k >= 0; --k) {
            F* row = square.vectors(panel + k, panel);
            for (int64_t j = k + 1; j < kRows; ++j)
                take_row(row, square.vectors(panel + j, panel), own[k * kRows + j], (n - panel) / kLanes);
            const float diagonal = own[k * kRows + k];
            for (int64_t v = 0; v < (n - panel) / kLanes; ++v) row[v] = row[v] / diagonal;
        }
        packed.take_vectors(square, panel, panel);
        for (int64_t r = 0; r < panel; ++r) {
            float* row = square.row(r) + panel;
            for (int64_t j = 0; j < kRows; ++j) packed.set_factor(r, j, row[j]), row[j] = 0.f;
        }
        take_products(square, packed, {0, panel}, {panel, n}, false);
    }
}

}  // namespace

bool factor(const FactorJob& job) {
    const int64_t n = job.n_columns, padded = (n + kRows - 1) / kRows * kRows;
    Square square(padded);
    for (int64_t r = 0; r < padded; ++r) {
        float* row = square.row(r);
        for (int64_t c = r; c < n; ++c) row[c] = job.moment[(n - 1 - r) * n + (n - 1 - c)];
        if (r >= n) row[r] = 1.f;
    }
    if (!cholesky(square)) return false;
    if (job.upper == nullptr) return true;
    std::vector<float> diagonal(n);
    for (int64_t k = 0; k < n; ++k) diagonal[k] = square.row(k)[k];
    invert(square);
    constexpr int64_t kNear = 16;  // rows and columns turned at a time
    for (int64_t i = 0; i < n; ++i) job.gain[i] = diagonal[n - 1 - i] * diagonal[n - 1 - i];
    for (int64_t row = 0; row < n; row += kNear) {
        for (int64_t column = 0; column < n; column += kNear) {
            for (int64_t i = row; i < row + kNear && i < n; ++i)
                for (int64_t k = column; k < column + kNear && k < n; ++k)
                    job.upper[i * n + k] =
                        k > i ? square.row(n - 1 - k)[n - 1 - i] * diagonal[n - 1 - i] : (float)(k == i);
        }
    }
    return true;
}

}  // namespace whisq::WHISQ_ISA
