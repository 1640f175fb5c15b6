// 32 small integers in one vector of bytes: the integers of a block of 32 weights, or of a part of a super-block.
#pragma once

#include "lanes.h"

namespace whisq::WHISQ_ISA {

typedef uint8_t Bytes __attribute__((vector_size(32)));
typedef uint8_t Half __attribute__((vector_size(16)));

constexpr int kVectors = 32 / kLanes;  // of lanes that hold 32 numbers

inline Bytes load_bytes(const uint8_t* from) {
    Bytes value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Half load_half(const uint8_t* from) {
    Half value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// The low bytes of 32 integers, in order.
inline Bytes low_bytes(const I* v) {
#if defined(__AVX512F__) && WHISQ_LANES == 16
    return (Bytes)_mm256_set_m128i(_mm512_cvtepi32_epi8((__m512i)v[1]), _mm512_cvtepi32_epi8((__m512i)v[0]));
#elif defined(__AVX2__) && WHISQ_LANES == 8
    const __m256i low = _mm256_set1_epi16(0xff);
    const __m256i a = _mm256_and_si256(_mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]), low);
    const __m256i b = _mm256_and_si256(_mm256_packs_epi32((__m256i)v[2], (__m256i)v[3]), low);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return (Bytes)_mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
#else
    Bytes bytes;
    for (int j = 0; j < 32; ++j) bytes[j] = (uint8_t)v[j / kLanes][j % kLanes];
    return bytes;
#endif
}

// Bit 4 of every byte, the first in the lowest bit.
inline uint32_t fifth_bits(Bytes bytes) {
#if defined(__AVX2__)
    return (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16((__m256i)bytes, 3));
#else
    uint32_t bits = 0;
    for (int j = 0; j < 32; ++j) bits |= (uint32_t)(bytes[j] >> 4 & 1) << j;
    return bits;
#endif
}

// 32 nibbles, each in a byte, to 16 bytes: those of j and j + 16 share one.
inline Half nibbles(Bytes bytes) {
    typedef uint16_t Words __attribute__((vector_size(16)));
    Half low;
    Words high;
    std::memcpy(&low, &bytes, 16);
    std::memcpy(&high, (const char*)&bytes + 16, 16);
    return low | (Half)(high << 4);
}

}  // namespace whisq::WHISQ_ISA
