#include "triangle.h"

#include <algorithm>
#include <cstring>

namespace whisq {

void unpack_triangle(const void* packed, int64_t n, float* matrix) {
    const char* next = (const char*)packed;
    for (int64_t row = 0; row < n; ++row) {
        const int64_t size = (n - row) * (int64_t)sizeof(float);
        std::memcpy(matrix + row * n + row, next, size);
        next += size;
    }
    // Square by square: whole columns of a wide matrix all lie in the same few lines of a cache.
    constexpr int64_t kSide = 16;
    for (int64_t row = 0; row < n; row += kSide)
        for (int64_t column = row; column < n; column += kSide)
            for (int64_t c = column; c < std::min(column + kSide, n); ++c)
                for (int64_t r = row; r < std::min(row + kSide, c); ++r) matrix[c * n + r] = matrix[r * n + c];
}

}  // namespace whisq
