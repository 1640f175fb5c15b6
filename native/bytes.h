// 32 small integers in one vector of bytes: the integers of a block of 32 weights, or of a part of a super-block.
#pragma once

#include "lanes.h"

namespace whisq::WHISQ_ISA {

typedef uint8_t Bytes __attribute__((vector_size(32)));
typedef uint8_t Half __attribute__((vector_size(16)));
typedef uint16_t HalfWords __attribute__((vector_size(16)));

constexpr int kVectors = 32 / kLanes;  // of lanes that hold 32 numbers

inline Bytes load_bytes(const uint8_t* from) {
    Bytes value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// The first or the second 16 of 32 bytes.
template <int which>
inline Half half_of(Bytes bytes) {
#if defined(__AVX2__)
    return (Half)_mm256_extracti128_si256((__m256i)bytes, which);
#else
    Half half;
    std::memcpy(&half, (const char*)&bytes + 16 * which, sizeof half);
    return half;
#endif
}

inline Bytes joined(Half first, Half second) {
#if defined(__AVX2__)
    return (Bytes)_mm256_set_m128i((__m128i)second, (__m128i)first);
#else
    Bytes bytes;
    std::memcpy(&bytes, &first, sizeof first);
    std::memcpy((char*)&bytes + 16, &second, sizeof second);
    return bytes;
#endif
}

typedef uint16_t Words __attribute__((vector_size(32)));

// Bits of every byte from `from` on, as many as the mask has at its low end.
inline Bytes bits_of(Bytes bytes, int from, uint8_t mask) { return (Bytes)((Words)bytes >> (uint16_t)from) & mask; }

// Every byte moved up; what it holds has to fit.
inline Bytes moved_up(Bytes bytes, int by) { return (Bytes)((Words)bytes << (uint16_t)by); }

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
#elif defined(__SSE2__) && WHISQ_LANES == 4
    const __m128i low = _mm_set1_epi16(0xff);
    __m128i words[4], bytes[2];
    for (int j = 0; j < 4; ++j)
        words[j] = _mm_and_si128(_mm_packs_epi32((__m128i)v[2 * j], (__m128i)v[2 * j + 1]), low);
    for (int j = 0; j < 2; ++j) bytes[j] = _mm_packus_epi16(words[2 * j], words[2 * j + 1]);
    return joined((Half)bytes[0], (Half)bytes[1]);
#elif defined(__aarch64__) && WHISQ_LANES == 4
    // The even bytes of two vectors, twice: of every lane the lowest is left.
    uint8x16_t words[4];
    for (int j = 0; j < 4; ++j) words[j] = vuzp1q_u8((uint8x16_t)v[2 * j], (uint8x16_t)v[2 * j + 1]);
    return joined((Half)vuzp1q_u8(words[0], words[1]), (Half)vuzp1q_u8(words[2], words[3]));
#else
    Bytes bytes;
    for (int j = 0; j < 32; ++j) bytes[j] = (uint8_t)v[j / kLanes][j % kLanes];
    return bytes;
#endif
}

// kLanes signed bytes from `first` on.
template <int first>
inline I widened(Bytes bytes) {
    const Half half = half_of<first / 16>(bytes);
#if defined(__AVX512F__) && WHISQ_LANES == 16
    return (I)_mm512_cvtepi8_epi32((__m128i)half);
#elif defined(__AVX2__) && WHISQ_LANES == 8
    return (I)_mm256_cvtepi8_epi32(first % 16 < 8 ? (__m128i)half : _mm_srli_si128((__m128i)half, 8));
#elif defined(__SSE2__) && WHISQ_LANES == 4
    // A byte to the top of its lane, then down again with its sign.
    const __m128i zero = _mm_setzero_si128(), rest = _mm_srli_si128((__m128i)half, first % 16);
    return (I)_mm_unpacklo_epi16(zero, _mm_unpacklo_epi8(zero, rest)) >> 24;
#elif defined(__aarch64__) && WHISQ_LANES == 4
    const int8x16_t all = (int8x16_t)half;
    const int16x8_t words = first % 16 < 8 ? vmovl_s8(vget_low_s8(all)) : vmovl_high_s8(all);
    return (I)(first % 8 < 4 ? vmovl_s16(vget_low_s16(words)) : vmovl_high_s16(words));
#else
    I value;
    for (int lane = 0; lane < kLanes; ++lane) value[lane] = (int8_t)half[first % 16 + lane];
    return value;
#endif
}

// Bit 4 of every byte, the first in the lowest bit.
inline uint32_t fifth_bits(Bytes bytes) {
#if defined(__AVX2__)
    return (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16((__m256i)bytes, 3));
#elif defined(__SSE2__)
    const Bytes raised = moved_up(bytes, 3);
    const int low = _mm_movemask_epi8((__m128i)half_of<0>(raised)),
              high = _mm_movemask_epi8((__m128i)half_of<1>(raised));
    return (uint32_t)low | (uint32_t)high << 16;
#elif defined(__aarch64__)
    // Each byte keeps the bit that is its place among eight, and eight of them add up to a byte.
    const uint64x2_t places = vdupq_n_u64(0x8040201008040201);
    uint32_t bits = 0;
    for (int part = 0; part < 2; ++part) {
        const uint8x16_t half = (uint8x16_t)(part == 0 ? half_of<0>(bytes) : half_of<1>(bytes));
        const uint8x16_t kept = vandq_u8(vtstq_u8(half, vdupq_n_u8(16)), vreinterpretq_u8_u64(places));
        bits |= (uint32_t)(vaddv_u8(vget_low_u8(kept)) | vaddv_u8(vget_high_u8(kept)) << 8) << 16 * part;
    }
    return bits;
#else
    uint32_t bits = 0;
    for (int j = 0; j < 32; ++j) bits |= (uint32_t)(bytes[j] >> 4 & 1) << j;
    return bits;
#endif
}

// 32 nibbles, each in a byte, to 16 bytes: those of j and j + 16 share one.
inline Half nibbles(Bytes bytes) { return half_of<0>(bytes) | half_of<1>(moved_up(bytes, 4)); }

// The reverse.
inline Bytes from_nibbles(const uint8_t* from) {
    Half packed;
    std::memcpy(&packed, from, sizeof packed);
    return joined(packed, (Half)((HalfWords)packed >> 4)) & 15;
}

// 32 bits, the lowest first, as 16 where they are set.
inline Bytes sixteen_where(uint32_t bits) {
    typedef uint64_t Longs __attribute__((vector_size(32)));
    const Bytes bit = (Bytes)(Longs{} + 0x8040201008040201);
#if defined(__AVX2__)
    const __m256i eights = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const Bytes each = (Bytes)_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), eights);
#else
    constexpr uint64_t kEach = 0x0101010101010101;
    const Bytes each =
        (Bytes)Longs{(bits & 255) * kEach, (bits >> 8 & 255) * kEach, (bits >> 16 & 255) * kEach, (bits >> 24) * kEach};
#endif
    return (Bytes)((each & bit) == bit) & 16;
}

}  // namespace whisq::WHISQ_ISA
