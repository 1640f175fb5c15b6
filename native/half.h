// Conversions between f32 and the 16-bit floats; rounding is to nearest, half to even.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace whisq::WHISQ_ISA {

inline uint32_t float_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float float_from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint16_t half_from_float(float value) {
#if defined(__F16C__)
    return (uint16_t)_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__ARM_FP16_FORMAT_IEEE)
    __fp16 half = (__fp16)value;
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
#else
    const uint32_t bits = float_bits(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));  // a NaN, made quiet
    if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);                             // rounds to infinity
    if (magnitude < 0x38800000) {
        // Below f16's normals the unit is 2^-24: adding 0.5 lets the FPU round to that unit, half to even.
        const float sum = float_from_bits(magnitude) + 0.5f;
        return uint16_t(sign | (float_bits(sum) - 0x3f000000));
    }
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return uint16_t(sign | (rounded - 0x38000000) >> 13);
#endif
}

inline float float_from_half(uint16_t half) {
#if defined(__F16C__)
    return _cvtsh_ss(half);
#elif defined(__ARM_FP16_FORMAT_IEEE)
    __fp16 value;
    std::memcpy(&value, &half, 2);
    return (float)value;
#else
    const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude >= 0x7c00)
        return float_from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13 | (magnitude > 0x7c00) << 22);
    // Scaling by 2^112 moves the exponent's bias and makes normals of subnormals; it is exact.
    const float scaled = float_from_bits(magnitude << 13) * float_from_bits(0x77800000);
    return float_from_bits(sign | float_bits(scaled));
#endif
}

inline float float_from_bfloat(uint16_t value) { return float_from_bits(uint32_t(value) << 16); }

inline uint16_t bfloat_from_float(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 64);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace whisq::WHISQ_ISA
