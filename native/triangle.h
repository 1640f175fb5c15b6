// A symmetric matrix from its upper triangle: what a calibration keeps.
#pragma once

#include <cstdint>

namespace whisq {

// From row after row of the upper triangle, n * (n + 1) / 2 values, which may begin at any address, n * n values.
void unpack_triangle(const void* packed, int64_t n, float* matrix);

}  // namespace whisq
