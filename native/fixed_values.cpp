// Types whose stored integers are indices into sixteen fixed values, 32 weights to a scale: iq4_nl, iq4_xs, which
// quantizes the scales of eight blocks too, and mxfp4, whose scale is a power of two (OCP Microscaling Formats 1.0).
// Layouts and arithmetic: ggml-common.h, ggml-quants.c (quantize_row_iq4_nl_impl, quantize_row_mxfp4_ref).
#include <cmath>

#include "families.h"
#include "search.h"

namespace whisq::WHISQ_ISA {
namespace {

constexpr int kTries = 7;

// Halfway to the next value; every one is a float, and so near them ggml's differences are exact.
constexpr float threshold(int k) { return (float)(kIq4Values[k] + kIq4Values[k + 1]) / 2; }

// Index of the value nearest to x, the upper one at a tie.
I nearest_index(F x) {
    I index = I{};
    for (int k = 0; k < 15; ++k) index -= ~(x < threshold(k));
    return index;
}

F nearest_value(F x) {
    F value = splat((float)kIq4Values[0]);
    for (int k = 0; k < 15; ++k) value = select(x < threshold(k), value, splat((float)kIq4Values[k + 1]));
    return value;
}

// The best scale of 32 weights; 0 where they count as all zero.
F search_iq4(const F* x, const F* w, I& is_zero) {
    const Extreme extreme = extreme_of(x, 32);
    is_zero = extreme.magnitude < kGroupEpsilon;
    auto sums = [&](F inverse, F& sum_qx, F& sum_q2) {
        sum_qx = sum_q2 = F{};
        for (int j = 0; j < 32; ++j) {
            const F q = nearest_value(inverse * x[j]);
            const F wq = w[j] * q;
            sum_qx += wq * x[j];
            sum_q2 += wq * q;
        }
    };
    F sum_qx, sum_q2;
    const F first = -extreme.value / (float)kIq4Values[0];
    sums(1.f / first, sum_qx, sum_q2);
    F scale = select(sum_q2 > 0.f, sum_qx / sum_q2, F{});
    F best = scale * sum_qx;
    for (int step = -kTries; step <= kTries; ++step) {
        sums(splat((float)(step + kIq4Values[0])) / extreme.value, sum_qx, sum_q2);
        const I better = (sum_q2 > 0.f) & (sum_qx * sum_qx > best * sum_q2);
        scale = select(better, sum_qx / sum_q2, scale);
        best = select(better, scale * sum_qx, best);
    }
    return select(is_zero, F{}, scale);
}

void weights_of(const Group& g, F mean, int begin, F* w) {
    for (int j = 0; j < 32; ++j) {
        const F x = g.x[begin + j];
        w[j] = g.importance != nullptr ? g.importance_of(begin + j) * square_root(mean + x * x) : x * x;
    }
}

F mean_square(const F* x, int n) {
    F sum = F{};
    for (int j = 0; j < n; ++j) sum += x[j] * x[j];
    return sum * (2.f / (float)n);
}

void put_indices(const Group& g, const I* l, int offset) {
    for (int j = 0; j < 16; j += 4) {
        I bytes[4];
        for (int k = 0; k < 4; ++k) bytes[k] = l[j + k] | l[j + k + 16] << 4;
        put_words(g, offset + j, pack_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
    }
}

void put_halves(const Group& g, F value) {
    for (int lane = 0; lane < kLanes; ++lane) put_half(g.out[lane], half_from_float(value[lane]));
}

}  // namespace

void quantize_iq4_nl(const Group& g) {
    F w[32];
    I l[32], is_zero;
    weights_of(g, mean_square(g.x, 32), 0, w);
    const F scale = search_iq4(g.x, w, is_zero);
    const F inverse = select(scale != 0.f, 1.f / scale, F{});
    for (int j = 0; j < 32; ++j) l[j] = nearest_index(inverse * g.x[j]);
    put_halves(g, scale);
    put_indices(g, l, 2);
}

void quantize_iq4_xs(const Group& g) {
    F scales[8], w[32];
    I l[32], is_zero;
    const F mean = mean_square(g.x, 256);
    for (int j = 0; j < 8; ++j) {
        weights_of(g, mean, 32 * j, w);
        scales[j] = search_iq4(g.x + 32 * j, w, is_zero);
    }
    const F d = -extreme_of(scales, 8).value / 32.f;
    put_halves(g, d);
    const F inverse = select(d != 0.f, 1.f / d, F{});
    I low = I{}, high = I{};
    for (int j = 0; j < 8; ++j) {
        const I scale_l = nearest(inverse * scales[j], -32, 31);
        const F unit = d * to_float(scale_l);
        const F unit_inverse = select(unit != 0.f, 1.f / unit, F{});
        for (int i = 0; i < 32; ++i) l[i] = nearest_index(unit_inverse * g.x[32 * j + i]);
        put_indices(g, l, 8 + 16 * j);
        low |= ((scale_l + 32) & 15) << (4 * j);
        high |= ((scale_l + 32) >> 4) << (2 * j);
    }
    put_words(g, 4, low);
    for (int lane = 0; lane < kLanes; ++lane) put_half(g.out[lane] + 2, (uint16_t)high[lane]);
}

namespace {

// The exponent of a block's scale: floor(log2(largest)) - 2, biased. ggml takes the logarithm as a float, which just
// below a power of two is that power's; an exponent that a byte cannot hold wraps, as it does on x86.
uint8_t mxfp4_exponent(float largest) {
    if (!(largest > 0.f) || std::isinf(largest)) return 0;
    return (uint8_t)((int)std::floor((float)std::log2((double)largest)) + 125);
}

}  // namespace

// Importance plays no part, as in ggml.
void quantize_mxfp4(const Group& g) {
    const F largest = extreme_of(g.x, 32).magnitude;
    F scale;
    for (int lane = 0; lane < kLanes; ++lane) {
        g.out[lane][0] = mxfp4_exponent(largest[lane]);
        scale[lane] = mxfp4_scale(g.out[lane][0]);
    }
    I l[32];
    for (int j = 0; j < 32; ++j) {
        // The nearest of the values that are not negative, the smaller one at a tie.
        const F magnitude = absolute(g.x[j]);
        F best = magnitude;
        I index = I{};
        for (int k = 1; k < 8; ++k) {
            const F error = absolute((float)kMxfp4Values[k] * scale - magnitude);
            const I better = error < best;
            best = select(better, error, best);
            index = select(better, splat_int(k), index);
        }
        l[j] = index | ((index != 0) & (g.x[j] < 0.f) & 8);
    }
    put_indices(g, l, 1);
}

}  // namespace whisq::WHISQ_ISA
