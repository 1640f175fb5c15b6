// A group: as many blocks as there are lanes, loaded so that element j of all of them is one vector.
#pragma once

#include "half.h"
#include "kernels.h"
#include "lanes.h"

namespace whisq::WHISQ_ISA {

constexpr float kHalfMax = 65504.f;
constexpr float kGroupEpsilon = 1e-15f;  // ggml's GROUP_MAX_EPS: a block below it counts as all zero

// The inputs of one group: a block in every lane, or two that follow each other. Lanes beyond the last block repeat it;
// their results go to scratch memory.
struct Group {
    alignas(64) F x[256];
    const void* importance;  // f32, the same for all lanes, which are then rows; or null
    F row_mean_square;       // mean of x^2 over the lane's whole row; only for legacy types
    uint8_t* out[kLanes];
    alignas(64) uint8_t scratch[256];

    F importance_of(int j) const {
        float value;
        std::memcpy(&value, (const char*)importance + 4 * j, sizeof value);
        return splat(value);
    }
};

inline F load_floats(const float* source) {
    F value;
    std::memcpy(&value, source, sizeof value);
    return value;
}

inline F load_halves(const uint16_t* source) {
#if defined(__AVX512F__) && WHISQ_LANES == 16
    return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)source));
#elif defined(__F16C__) && WHISQ_LANES == 8
    return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)source));
#else
    // Copied, because a tensor in a file may begin at an odd address.
    uint16_t halves[kLanes];
    std::memcpy(halves, source, sizeof halves);
#if defined(__aarch64__) && WHISQ_LANES == 4
    return (F)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves)));
#else
    F value;
    for (int lane = 0; lane < kLanes; ++lane) value[lane] = float_from_half(halves[lane]);
    return value;
#endif
#endif
}

inline F load_bfloats(const uint16_t* source) {
    typedef uint16_t H __attribute__((vector_size(kLanes * 2)));
    H raw;
    std::memcpy(&raw, source, sizeof raw);
    return (F)(__builtin_convertvector(raw, I) << 16);
}

// kLanes weights of a dense type from an index on, as f32.
inline F load(const void* source, Type type, int64_t index) {
    if (type == kF16) return load_halves((const uint16_t*)source + index);
    if (type == kBF16) return load_bfloats((const uint16_t*)source + index);
    return load_floats((const float*)source + index);
}

// Lanes whose value f16 cannot hold: beyond its range, infinite, or NaN.
struct Watch {
    I suspicious = I{};
    void add(F value) { suspicious |= ~(absolute(value) <= kHalfMax); }
};

// Round lanes to f16, to nearest, half to even.
inline void halves_of(F value, uint16_t* halves) {
#if defined(__AVX512F__) && WHISQ_LANES == 16
    _mm256_storeu_si256((__m256i*)halves, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__) && WHISQ_LANES == 8
    _mm_storeu_si128((__m128i*)halves, _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__) && WHISQ_LANES == 4
    const uint16x4_t rounded = vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)value));
    std::memcpy(halves, &rounded, sizeof rounded);
#else
    for (int lane = 0; lane < kLanes; ++lane) halves[lane] = half_from_float(value[lane]);
#endif
}

// Round lanes to f16, keep the halves, and return what they decode to.
inline F through_half(F value, uint16_t* halves) {
    halves_of(value, halves);
    return load_halves(halves);
}

inline void put_half(uint8_t* to, uint16_t half) { std::memcpy(to, &half, 2); }

// Pack four vectors of byte-sized integers into one: element 0 in the low byte.
inline I pack_bytes(I a, I b, I c, I d) { return a | b << 8 | c << 16 | d << 24; }

// Write one 32-bit word to every lane's block.
inline void put_words(const Group& group, int byte_offset, I words) {
    for (int lane = 0; lane < kLanes; ++lane) {
        const int32_t word = words[lane];
        std::memcpy(group.out[lane] + byte_offset, &word, 4);
    }
}

}  // namespace whisq::WHISQ_ISA
