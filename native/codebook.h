// The values of a codebook, looked up and found, lane by lane.
#pragma once

#include "kernels.h"
#include "lanes.h"

namespace whisq::WHISQ_ISA {

#if defined(__AVX512F__) && WHISQ_LANES == 16

inline F pick(const float* sixteen, I index) {
    return (F)_mm512_permutexvar_ps((__m512i)index, _mm512_loadu_ps(sixteen));
}

// The index of the value nearest to x, the upper one at a tie.
inline I nearest_place(const Codebook& book, F x) {
    I at{};
    for (const int step : {8, 4, 2, 1}) at = select(x < pick(book.threshold, at + step), at, at + step);
    return at;
}

#elif defined(__AVX2__) && WHISQ_LANES == 8

inline F pick_of_eight(const float* eight, I index) {
    return (F)_mm256_permutevar8x32_ps(_mm256_loadu_ps(eight), (__m256i)index);
}

inline F pick(const float* sixteen, I index) {
    return select(index > 7, pick_of_eight(sixteen + 8, index), pick_of_eight(sixteen, index));
}

#define WHISQ_PICKS_OF_EIGHT

#elif defined(__aarch64__) && WHISQ_LANES == 4

// Where the four bytes of every lane's float are in a table.
inline uint8x16_t bytes_at(I index) { return (uint8x16_t)(index * 0x04040404 + 0x03020100); }

inline F pick(const float* sixteen, I index) {
    return (F)vqtbl4q_u8(vld1q_u8_x4((const uint8_t*)sixteen), bytes_at(index));
}

inline F pick_of_eight(const float* eight, I index) {
    return (F)vqtbl2q_u8(vld1q_u8_x2((const uint8_t*)eight), bytes_at(index));
}

#define WHISQ_PICKS_OF_EIGHT

#else

inline F pick(const float* sixteen, I index) {
    F value = splat(sixteen[0]);
    for (int k = 1; k < 16; ++k) value = select(index < k, value, splat(sixteen[k]));
    return value;
}

// The index of the value nearest to x, the upper one at a tie.
inline I nearest_place(const Codebook& book, F x) {
    I at{};
    for (int k = 1; k < 16; ++k) at = select(x < book.threshold[k], at, splat_int(k));
    return at;
}

#endif

#if defined(WHISQ_PICKS_OF_EIGHT)

// The index of the value nearest to x, the upper one at a tie: each step halves the thresholds that are left.
inline I nearest_place(const Codebook& book, F x) {
    const I upper = ~(x < book.threshold[8]);
    I at = upper & 8;
    at |= ~(x < select(upper, splat(book.threshold[12]), splat(book.threshold[4]))) & 4;
    at |= ~(x < pick_of_eight(book.threshold_of_two, at >> 2)) & 2;
    return at | (~(x < pick_of_eight(book.threshold_of_one, at >> 1)) & 1);
}

#endif

// The value at an index, which is whole and a float as levels are.
inline F value_at(const Codebook& book, F index) { return pick(book.value, truncated(index)); }

inline F nearest_index(const Codebook& book, F x) { return to_float(nearest_place(book, x)); }

inline F nearest_value(const Codebook& book, F x) { return pick(book.value, nearest_place(book, x)); }

}  // namespace whisq::WHISQ_ISA
