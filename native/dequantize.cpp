// Blocks back to f32, in ggml's arithmetic (ggml-quants.c: dequantize_row_*). One block at a time, the lanes along it:
// the integers of 32 weights are unpacked as bytes.
#include "bytes.h"
#include "families.h"

namespace whisq::WHISQ_ISA {
namespace {

float half_at(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, 2);
    return float_from_half(half);
}

uint32_t word_at(const uint8_t* p) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    return word;
}

// `n` of 32 signed bytes from `begin` on, through `value_of`, as f32.
template <int begin, int n, typename Value>
void put(Bytes q, float* y, Value value_of) {
    const F value = value_of(to_float(widened<begin>(q)));
    std::memcpy(y + begin, &value, sizeof value);
    if constexpr (n > kLanes) put<begin + kLanes, n - kLanes>(q, y, value_of);
}

template <int begin, int n>
void put(Bytes q, float scale, float* y) {
    put<begin, n>(q, y, [scale](F l) { return l * scale; });
}

template <int begin, int n>
void put(Bytes q, float scale, float offset, float* y) {
    put<begin, n>(q, y, [scale, offset](F l) { return l * scale + offset; });
}

void q4_0(const uint8_t* b, float* y) { put<0, 32>(from_nibbles(b + 2) - 8, half_at(b), y); }

void q4_1(const uint8_t* b, float* y) { put<0, 32>(from_nibbles(b + 4), half_at(b), half_at(b + 2), y); }

void q5_0(const uint8_t* b, float* y) {
    put<0, 32>((from_nibbles(b + 6) | sixteen_where(word_at(b + 2))) - 16, half_at(b), y);
}

void q5_1(const uint8_t* b, float* y) {
    put<0, 32>(from_nibbles(b + 8) | sixteen_where(word_at(b + 4)), half_at(b), half_at(b + 2), y);
}

void q8_0(const uint8_t* b, float* y) { put<0, 32>(load_bytes(b + 2), half_at(b), y); }

// In what follows j counts the sub-blocks of 16 weights, of which 32 bytes hold two, or of 32 weights.

void q2_k(const uint8_t* b, float* y) {
    const float d = half_at(b + 80), m = half_at(b + 82);
    for (int j = 0; j < 16; j += 2) {
        const Bytes q = bits_of(load_bytes(b + 16 + j / 8 * 32), j % 8, 3);
        put<0, 16>(q, d * (float)(b[j] & 15), -(m * (float)(b[j] >> 4)), y + 16 * j);
        put<16, 16>(q, d * (float)(b[j + 1] & 15), -(m * (float)(b[j + 1] >> 4)), y + 16 * j);
    }
}

void q3_k(const uint8_t* b, float* y) {
    const float d = half_at(b + 108);
    const uint8_t* scales = b + 96;
    auto scale_of = [&](int j) {
        const int low_bits = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
        return d * (float)((low_bits | (scales[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32);
    };
    const Bytes high = load_bytes(b);
    for (int j = 0; j < 16; j += 2) {
        const Bytes low = bits_of(load_bytes(b + 32 + j / 8 * 32), j % 8, 3);
        const Bytes q = (low | moved_up(bits_of(high, j / 2, 1), 2)) - 4;
        put<0, 16>(q, scale_of(j), y + 16 * j);
        put<16, 16>(q, scale_of(j + 1), y + 16 * j);
    }
}

struct ScaleAndMin {
    int scale, minimum;
};

ScaleAndMin scale_and_min(const uint8_t* s, int j) {
    if (j < 4) return {s[j] & 63, s[j + 4] & 63};
    return {(s[j + 4] & 15) | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4};
}

void q4_k(const uint8_t* b, float* y) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int j = 0; j < 8; ++j) {
        const ScaleAndMin s = scale_and_min(b + 4, j);
        const Bytes q = bits_of(load_bytes(b + 16 + j / 2 * 32), j % 2 * 4, 15);
        put<0, 32>(q, d * (float)s.scale, -(m * (float)s.minimum), y + 32 * j);
    }
}

void q5_k(const uint8_t* b, float* y) {
    const float d = half_at(b), m = half_at(b + 2);
    const Bytes high = load_bytes(b + 16);
    for (int j = 0; j < 8; ++j) {
        const ScaleAndMin s = scale_and_min(b + 4, j);
        const Bytes low = bits_of(load_bytes(b + 48 + j / 2 * 32), j % 2 * 4, 15);
        const Bytes q = low | moved_up(bits_of(high, j, 1), 4);
        put<0, 32>(q, d * (float)s.scale, -(m * (float)s.minimum), y + 32 * j);
    }
}

void q6_k(const uint8_t* b, float* y) {
    const float d = half_at(b + 208);
    const int8_t* scales = (const int8_t*)b + 192;
    for (int j = 0; j < 16; j += 2) {
        const int half = j / 8, part = j % 8 / 2;
        const Bytes low = bits_of(load_bytes(b + 64 * half + part % 2 * 32), part / 2 * 4, 15);
        const Bytes high = bits_of(load_bytes(b + 128 + 32 * half), part * 2, 3);
        const Bytes q = (low | moved_up(high, 4)) - 32;
        // ggml multiplies d by the scale, then by the integer.
        put<0, 16>(q, d * (float)scales[j], y + 16 * j);
        put<16, 16>(q, d * (float)scales[j + 1], y + 16 * j);
    }
}

// 32 indices into sixteen values.
template <const int8_t (&values)[16]>
void fixed_values(const uint8_t* packed, float d, float* y) {
    Bytes q = from_nibbles(packed);
#if defined(__AVX2__)
    const __m128i all = _mm_load_si128((const __m128i*)values);
    q = (Bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(all), (__m256i)q);
#elif defined(__aarch64__)
    const uint8x16_t all = vld1q_u8((const uint8_t*)values);
    q = joined((Half)vqtbl1q_u8(all, (uint8x16_t)half_of<0>(q)), (Half)vqtbl1q_u8(all, (uint8x16_t)half_of<1>(q)));
#else
    for (int j = 0; j < 32; ++j) q[j] = (uint8_t)values[q[j]];
#endif
    put<0, 32>(q, d, y);
}

void iq4_nl(const uint8_t* b, float* y) { fixed_values<kIq4Values>(b + 2, half_at(b), y); }

void iq4_xs(const uint8_t* b, float* y) {
    const float d = half_at(b);
    const int high = b[2] | b[3] << 8;
    for (int j = 0; j < 8; ++j) {
        const int scale = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (high >> (2 * j) & 3) << 4;
        fixed_values<kIq4Values>(b + 8 + 16 * j, d * (float)(scale - 32), y + 32 * j);
    }
}

void mxfp4(const uint8_t* b, float* y) { fixed_values<kMxfp4Values>(b + 1, mxfp4_scale(b[0]), y); }

struct Decoder {
    void (*run)(const uint8_t* source, float* destination, int64_t n);  // n weights, a whole number of blocks
    bool is_known = true;
};

template <Type type, void (*decode)(const uint8_t*, float*)>
void blocks(const uint8_t* source, float* destination, int64_t n) {
    constexpr int kSize = row_of(type).block_size, kBytes = row_of(type).block_bytes;
    for (int64_t block = 0; block < n / kSize; ++block) decode(source + block * kBytes, destination + block * kSize);
}

template <Type type>
void widen(const uint8_t* source, float* destination, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const F value = load(source, type, i);
        std::memcpy(destination + i, &value, sizeof value);
    }
    for (; i < n; ++i) {
        if (type == kF32) {
            std::memcpy(destination + i, source + 4 * i, 4);
            continue;
        }
        uint16_t half;
        std::memcpy(&half, source + 2 * i, 2);
        destination[i] = type == kF16 ? float_from_half(half) : float_from_bfloat(half);
    }
}

constexpr Decoder decoder_of(Type type) {
    switch (type) {
        case kF32:
            return {widen<kF32>};
        case kF16:
            return {widen<kF16>};
        case kBF16:
            return {widen<kBF16>};
        case kQ4_0:
            return {blocks<kQ4_0, q4_0>};
        case kQ4_1:
            return {blocks<kQ4_1, q4_1>};
        case kQ5_0:
            return {blocks<kQ5_0, q5_0>};
        case kQ5_1:
            return {blocks<kQ5_1, q5_1>};
        case kQ8_0:
            return {blocks<kQ8_0, q8_0>};
        case kQ2_K:
            return {blocks<kQ2_K, q2_k>};
        case kQ3_K:
            return {blocks<kQ3_K, q3_k>};
        case kQ4_K:
            return {blocks<kQ4_K, q4_k>};
        case kQ5_K:
            return {blocks<kQ5_K, q5_k>};
        case kQ6_K:
            return {blocks<kQ6_K, q6_k>};
        case kIQ4_NL:
            return {blocks<kIQ4_NL, iq4_nl>};
        case kIQ4_XS:
            return {blocks<kIQ4_XS, iq4_xs>};
        case kMXFP4:
            return {blocks<kMXFP4, mxfp4>};
    }
    return {nullptr, false};  // not a type
}
static_assert(answers_every_row([](Type type) { return decoder_of(type).is_known; }),
              "a type has a row in kTypes and no decoder, or the reverse");

}  // namespace

Outcome dequantize(const uint8_t* source, Type type, float* destination, int64_t n) {
    const Decoder decoder = decoder_of(type);
    if (!decoder.is_known) return Outcome::kNoKernel;
    decoder.run(source, destination, n);
    return Outcome::kDone;
}

}  // namespace whisq::WHISQ_ISA
