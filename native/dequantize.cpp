// Blocks back to f32, in ggml's arithmetic (ggml-quants.c: dequantize_row_*). One block at a time: what is written
// is contiguous, and the compiler takes its lanes along the block.
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

void q4_0(const uint8_t* b, float* y) {
    const float d = half_at(b);
    for (int j = 0; j < 16; ++j) {
        y[j] = (float)((b[2 + j] & 15) - 8) * d;
        y[j + 16] = (float)((b[2 + j] >> 4) - 8) * d;
    }
}

void q4_1(const uint8_t* b, float* y) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int j = 0; j < 16; ++j) {
        y[j] = (float)(b[4 + j] & 15) * d + m;
        y[j + 16] = (float)(b[4 + j] >> 4) * d + m;
    }
}

void q5_0(const uint8_t* b, float* y) {
    const float d = half_at(b);
    const uint32_t high = word_at(b + 2);
    for (int j = 0; j < 16; ++j) {
        y[j] = (float)((int)((b[6 + j] & 15) | (high >> j & 1) << 4) - 16) * d;
        y[j + 16] = (float)((int)(b[6 + j] >> 4 | (high >> (j + 16) & 1) << 4) - 16) * d;
    }
}

void q5_1(const uint8_t* b, float* y) {
    const float d = half_at(b), m = half_at(b + 2);
    const uint32_t high = word_at(b + 4);
    for (int j = 0; j < 16; ++j) {
        y[j] = (float)(int)((b[8 + j] & 15) | (high >> j & 1) << 4) * d + m;
        y[j + 16] = (float)(int)(b[8 + j] >> 4 | (high >> (j + 16) & 1) << 4) * d + m;
    }
}

void q8_0(const uint8_t* b, float* y) {
    const float d = half_at(b);
    for (int j = 0; j < 32; ++j) y[j] = (float)(int8_t)b[2 + j] * d;
}

void q2_k(const uint8_t* b, float* y) {
    const float d = half_at(b + 80), m = half_at(b + 82);
    for (int j = 0; j < 16; ++j) {
        const float scale = d * (float)(b[j] & 15), low = m * (float)(b[j] >> 4);
        const uint8_t* q = b + 16 + j / 8 * 32 + j % 2 * 16;
        const int shift = j % 8 / 2 * 2;
        for (int i = 0; i < 16; ++i) y[16 * j + i] = scale * (float)(q[i] >> shift & 3) - low;
    }
}

void q3_k(const uint8_t* b, float* y) {
    const float d = half_at(b + 108);
    const uint8_t *high = b, *scales = b + 96;
    for (int j = 0; j < 16; ++j) {
        const int low_bits = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
        const int six_bits = low_bits | (scales[8 + j % 4] >> (j / 4 * 2) & 3) << 4;
        const float scale = d * (float)(six_bits - 32);
        const uint8_t* q = b + 32 + j / 8 * 32 + j % 2 * 16;
        const int shift = j % 8 / 2 * 2;
        for (int i = 0; i < 16; ++i) {
            const int high_bit = high[j % 2 * 16 + i] >> (j / 2) & 1;
            y[16 * j + i] = scale * (float)((q[i] >> shift & 3) - (high_bit ? 0 : 4));
        }
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
        const float scale = d * (float)s.scale, low = m * (float)s.minimum;
        const uint8_t* q = b + 16 + j / 2 * 32;
        const int shift = j % 2 * 4;
        for (int i = 0; i < 32; ++i) y[32 * j + i] = scale * (float)(q[i] >> shift & 15) - low;
    }
}

void q5_k(const uint8_t* b, float* y) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int j = 0; j < 8; ++j) {
        const ScaleAndMin s = scale_and_min(b + 4, j);
        const float scale = d * (float)s.scale, low = m * (float)s.minimum;
        const uint8_t *high = b + 16, *q = b + 48 + j / 2 * 32;
        const int shift = j % 2 * 4;
        for (int i = 0; i < 32; ++i) {
            y[32 * j + i] = scale * (float)((q[i] >> shift & 15) + (high[i] >> j & 1) * 16) - low;
        }
    }
}

void q6_k(const uint8_t* b, float* y) {
    const float d = half_at(b + 208);
    for (int j = 0; j < 16; ++j) {
        // ggml multiplies d by the scale, then by the integer.
        const float scale = d * (float)(int8_t)b[192 + j];
        const int half = j / 8, part = j % 8 / 2, begin = j % 2 * 16;
        const uint8_t *low = b + 64 * half + part % 2 * 32 + begin, *high = b + 128 + 32 * half + begin;
        const int low_shift = part / 2 * 4, high_shift = part * 2;
        for (int i = 0; i < 16; ++i) {
            const int q = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
            y[16 * j + i] = scale * (float)(q - 32);
        }
    }
}

constexpr float kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void iq4(const uint8_t* q, float d, float* y) {
    for (int j = 0; j < 16; ++j) {
        y[j] = d * kIq4Values[q[j] & 15];
        y[j + 16] = d * kIq4Values[q[j] >> 4];
    }
}

void iq4_nl(const uint8_t* b, float* y) { iq4(b + 2, half_at(b), y); }

void iq4_xs(const uint8_t* b, float* y) {
    const float d = half_at(b);
    const int high = b[2] | b[3] << 8;
    for (int j = 0; j < 8; ++j) {
        const int scale = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (high >> (2 * j) & 3) << 4;
        iq4(b + 8 + 16 * j, d * (float)(scale - 32), y + 32 * j);
    }
}

using Decoder = void (*)(const uint8_t*, float*);

template <Decoder decode>
void all_blocks(const uint8_t* source, int type, float* destination, int64_t n_weights) {
    const int size = block_size(type), bytes = block_bytes(type);
    for (int64_t block = 0; block < n_weights / size; ++block)
        decode(source + block * bytes, destination + block * size);
}

void widen(const uint8_t* source, int type, float* destination, int64_t n) {
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

}  // namespace

bool dequantize(const uint8_t* source, int type, float* destination, int64_t n) {
    switch (type) {
        case kF32:
        case kF16:
        case kBF16:
            widen(source, type, destination, n);
            return true;
        case kQ4_0:
            all_blocks<q4_0>(source, type, destination, n);
            return true;
        case kQ4_1:
            all_blocks<q4_1>(source, type, destination, n);
            return true;
        case kQ5_0:
            all_blocks<q5_0>(source, type, destination, n);
            return true;
        case kQ5_1:
            all_blocks<q5_1>(source, type, destination, n);
            return true;
        case kQ8_0:
            all_blocks<q8_0>(source, type, destination, n);
            return true;
        case kQ2_K:
            all_blocks<q2_k>(source, type, destination, n);
            return true;
        case kQ3_K:
            all_blocks<q3_k>(source, type, destination, n);
            return true;
        case kQ4_K:
            all_blocks<q4_k>(source, type, destination, n);
            return true;
        case kQ5_K:
            all_blocks<q5_k>(source, type, destination, n);
            return true;
        case kQ6_K:
            all_blocks<q6_k>(source, type, destination, n);
            return true;
        case kIQ4_NL:
            all_blocks<iq4_nl>(source, type, destination, n);
            return true;
        case kIQ4_XS:
            all_blocks<iq4_xs>(source, type, destination, n);
            return true;
        default:
            return false;
    }
}

}  // namespace whisq::WHISQ_ISA
