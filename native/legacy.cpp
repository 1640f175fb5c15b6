// q4_0 q4_1 q5_0 q5_1 q8_0: blocks of 32 weights with an f16 scale, and for the _1 types an f16 minimum.
// Layouts and arithmetic: ggml-common.h, ggml-quants.c (quantize_row_q*_ref, quantize_row_q*_impl).
#include "families.h"
#include "search.h"

namespace whisq::WHISQ_ISA {
namespace {

// Write the 4- or 5-bit integers of 32 weights: low nibbles of j and j + 16 share a byte; fifth bits follow apart.
void put_nibbles(const Group& g, const I* l, int offset) {
    for (int j = 0; j < 16; j += 4) {
        I bytes[4];
        for (int k = 0; k < 4; ++k) bytes[k] = (l[j + k] & 15) | (l[j + k + 16] & 15) << 4;
        put_words(g, offset + j, pack_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
    }
}

void put_fifth_bits(const Group& g, const I* l, int offset) {
    I bits = I{};
    for (int j = 0; j < 32; ++j) bits |= (l[j] >> 4 & 1) << j;
    put_words(g, offset, bits);
}

void put_halves(const Group& g, F value, int offset) {
    for (int lane = 0; lane < kLanes; ++lane) put_half(g.out[lane] + offset, half_from_float(value[lane]));
}

// Importance as ggml weighs it: importance * sqrt(mean square of the row + x^2).
void weights_of(const Group& g, F* w) {
    for (int j = 0; j < 32; ++j) w[j] = g.importance[j] * square_root(g.row_mean_square + g.x[j] * g.x[j]);
}

// C's conversion of a float to int8_t or uint8_t, as the compilers do it: to int32, then the low byte.
I low_byte_signed(I value) { return value << 24 >> 24; }

template <int kBits>
void symmetric_integers(const Group& g, I* l, F& scale) {
    constexpr int kHalf = 1 << (kBits - 1);
    if (g.has_importance) {
        F w[32];
        weights_of(g, w);
        const Scale found = search_scale(g.x, w, 32, kHalf);
        for (int j = 0; j < 32; ++j) l[j] = stored_integer(found, g.x[j], kHalf);
        scale = found.scale;
        return;
    }
    scale = extreme_of(g.x, 32).value / (float)-kHalf;
    const F inverse = select(scale != 0.f, 1.f / scale, F{});
    for (int j = 0; j < 32; ++j) {
        const I whole = low_byte_signed(truncated(g.x[j] * inverse + ((float)kHalf + 0.5f)));
        l[j] = minimum(whole, splat_int(2 * kHalf - 1));
    }
}

template <int kBits>
void ranged_integers(const Group& g, I* l, F& scale, F& low) {
    constexpr int kMost = (1 << kBits) - 1;
    if (g.has_importance) {
        F w[32];
        weights_of(g, w);
        const ScaleMin found = search_scale_min(g.x, w, {32, kMost, -0.9f, 0.05f, 36, false});
        for (int j = 0; j < 32; ++j) l[j] = stored_integer(found, g.x[j], kMost);
        scale = found.scale;
        low = -found.minimum;
        return;
    }
    F high = splat(-3.40282347e+38f);
    low = splat(3.40282347e+38f);
    for (int j = 0; j < 32; ++j) {
        low = select(g.x[j] < low, g.x[j], low);
        high = select(g.x[j] > high, g.x[j], high);
    }
    scale = (high - low) / (float)kMost;
    const F inverse = select(scale != 0.f, 1.f / scale, F{});
    for (int j = 0; j < 32; ++j) {
        const I whole = truncated((g.x[j] - low) * inverse + 0.5f);
        l[j] = kBits == 4 ? minimum(low_byte_signed(whole), splat_int(kMost)) : whole & 0xff;
    }
}

template <int kBits>
void quantize_symmetric(const Group& g) {
    I l[32];
    F scale;
    symmetric_integers<kBits>(g, l, scale);
    put_halves(g, scale, 0);
    if (kBits == 5) put_fifth_bits(g, l, 2);
    put_nibbles(g, l, kBits == 5 ? 6 : 2);
}

template <int kBits>
void quantize_ranged(const Group& g) {
    I l[32];
    F scale, low;
    ranged_integers<kBits>(g, l, scale, low);
    put_halves(g, scale, 0);
    put_halves(g, low, 2);
    if (kBits == 5) put_fifth_bits(g, l, 4);
    put_nibbles(g, l, kBits == 5 ? 8 : 4);
}

// roundf: half away from zero. What is beyond int32 stays as the conversion left it.
I rounded_away(F value) {
    const I whole = truncated(value);
    const F rest = value - to_float(whole);
    return whole - ((rest >= 0.5f) & (rest <= 1.f)) + ((rest <= -0.5f) & (rest >= -1.f));
}

void quantize_q8_0(const Group& g) {
    F largest = F{};
    for (int j = 0; j < 32; ++j) largest = maximum(largest, absolute(g.x[j]));
    const F scale = largest / 127.f;
    const F inverse = select(scale != 0.f, 1.f / scale, F{});
    put_halves(g, scale, 0);
    for (int j = 0; j < 32; j += 4) {
        I l[4];
        for (int k = 0; k < 4; ++k) l[k] = rounded_away(g.x[j + k] * inverse) & 0xff;
        put_words(g, 2 + j, pack_bytes(l[0], l[1], l[2], l[3]));
    }
}

}  // namespace

GroupKernel legacy_kernel(int type) {
    switch (type) {
        case kQ4_0:
            return quantize_symmetric<4>;
        case kQ5_0:
            return quantize_symmetric<5>;
        case kQ4_1:
            return quantize_ranged<4>;
        case kQ5_1:
            return quantize_ranged<5>;
        case kQ8_0:
            return quantize_q8_0;
        default:
            return nullptr;
    }
}

}  // namespace whisq::WHISQ_ISA
