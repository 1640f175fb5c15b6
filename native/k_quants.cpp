// q2_K q3_K q4_K q5_K q6_K: super-blocks of 256 weights whose sub-blocks' scales are quantized too.
// Layouts and arithmetic: ggml-common.h, ggml-quants.c (quantize_row_q*_K_ref, quantize_row_q*_K_impl).
#include "families.h"
#include "search.h"

namespace whisq::WHISQ_ISA {
namespace {

// Searches of neighbouring sub-blocks that are taken side by side.
constexpr int kSideBySide = 2;

F mean_square(const F* x, float factor) {
    F sum = F{};
    for (int j = 0; j < 256; ++j) sum += x[j] * x[j];
    return factor * sum / 256.f;
}

F sum_of(const F* w, int n) {
    F sum = F{};
    for (int j = 0; j < n; ++j) sum += w[j];
    return sum;
}

void put_halves(const Group& g, const uint16_t* halves, int offset) {
    for (int lane = 0; lane < kLanes; ++lane) put_half(g.out[lane] + offset, halves[lane]);
}

void put_bytes(const Group& g, const I* bytes, int n, int offset) {
    for (int j = 0; j < n; j += 4)
        put_words(g, offset + j, pack_bytes(bytes[j], bytes[j + 1], bytes[j + 2], bytes[j + 3]));
}

// The weights that the search of sub-block j uses.
void importance_weights(const Group& g, F mean, int begin, int n, F* w) {
    for (int i = 0; i < n; ++i) {
        const F x = g.x[begin + i];
        w[i] = g.importance_of(begin + i) * square_root(mean + x * x);
    }
}

// Take the integers of one sub-block anew with its decoded scale d and minimum m; where d is 0 the search's stay.
void requantize(const Group& g, const ScaleMin& found, F d, F m, int begin, int n, int n_max, I* l) {
    const I keeps = d == 0.f;
    for (int i = 0; i < n; ++i) l[begin + i] = nearest((g.x[begin + i] + m) / d, 0, n_max);
    if (!any(keeps)) return;
    for (int i = 0; i < n; ++i)
        l[begin + i] = select(keeps, stored_integer(found, g.x[begin + i], n_max), l[begin + i]);
}

void requantize(const Group& g, const Scale& found, F d, int begin, int n, int n_max, I* l) {
    const I keeps = d == 0.f;
    for (int i = 0; i < n; ++i) l[begin + i] = nearest(g.x[begin + i] / d, -n_max, n_max - 1) + n_max;
    if (!any(keeps)) return;
    for (int i = 0; i < n; ++i)
        l[begin + i] = select(keeps, stored_integer(found, g.x[begin + i], n_max), l[begin + i]);
}

// Two bits of 256 integers: j, j + 32, j + 64, j + 96 share a byte, and so in the second half.
void put_two_bits(const Group& g, const I* l, int offset) {
    for (int half = 0; half < 256; half += 128) {
        for (int j = 0; j < 32; j += 4) {
            I bytes[4];
            for (int k = 0; k < 4; ++k) {
                const I* q = l + half + j + k;
                bytes[k] = (q[0] & 3) | (q[32] & 3) << 2 | (q[64] & 3) << 4 | (q[96] & 3) << 6;
            }
            put_words(g, offset + half / 4 + j, pack_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
        }
    }
}

// Scales or minimums of n sub-blocks, none negative, as integers from 0 to kMost of their largest; returns the unit.
// ggml clamps those of q4_K and q5_K alone.
template <int kMost, bool kClamps>
F plain_units(const F* values, int n, I* integers) {
    F largest = F{};
    for (int j = 0; j < n; ++j) largest = select(values[j] > largest, values[j], largest);
    const I some = largest > 0.f;
    const F inverse = select(some, (float)kMost / largest, F{});
    for (int j = 0; j < n; ++j) {
        const I whole = nearest(inverse * values[j]) & 0xff;
        integers[j] = kClamps ? minimum(whole, splat_int(kMost)) : select(some, whole, I{});
    }
    return largest / (float)kMost;
}

}  // namespace

void quantize_q2_k(const Group& g) {
    ScaleMin found[16];
    F scales[16], mins[16], sums[16], w[256];
    if (g.importance != nullptr) {
        const F mean = mean_square(g.x, 1.f);
        for (int j = 0; j < 16; ++j) {
            importance_weights(g, mean, 16 * j, 16, w + 16 * j);
            sums[j] = sum_of(w + 16 * j, 16);
        }
        for (int j = 0; j < 16; j += kSideBySide)
            search_scales_min<false, 16, kSideBySide>(g.x + 16 * j, w + 16 * j, {3, -0.9f, 0.05f, 36}, found + j);
    } else {
        for (int i = 0; i < 256; ++i) w[i] = absolute(g.x[i]);
        for (int j = 0; j < 16; j += kSideBySide)
            search_scales_min<true, 16, kSideBySide>(g.x + 16 * j, w + 16 * j, {3, -0.5f, 0.1f, 15}, found + j);
    }
    for (int j = 0; j < 16; ++j) {
        scales[j] = found[j].scale;
        mins[j] = found[j].minimum;
    }
    I scale_l[16], min_l[16];
    F unit, min_unit;
    if (g.importance != nullptr) {
        unit = search_positive(scales, sums, 16, 15, scale_l);
        min_unit = search_positive(mins, sums, 16, 15, min_l);
    } else {
        unit = plain_units<15, false>(scales, 16, scale_l);
        min_unit = plain_units<15, false>(mins, 16, min_l);
    }
    uint16_t halves[kLanes];
    const F d = through_half(unit, halves);
    put_halves(g, halves, 80);
    const F m = through_half(min_unit, halves);
    put_halves(g, halves, 82);
    I packed[16], l[256];
    for (int j = 0; j < 16; ++j) {
        packed[j] = (scale_l[j] | min_l[j] << 4) & 0xff;
        requantize(g, found[j], d * to_float(packed[j] & 15), m * to_float(packed[j] >> 4), 16 * j, 16, 3, l);
    }
    put_bytes(g, packed, 16, 0);
    put_two_bits(g, l, 16);
}

namespace {

// The greedy search of q3_K: start from the largest weight's scale, then move single integers while it helps.
//
// A move takes a division, and only two in a hundred weights move. `above` and `below` bound the quotients that leave
// an integer where it is, with room for rounding; a weight at which all lanes stay within them is passed over.
F search_q3(const F* x, I* integers) {
    constexpr int kMost = 4;
    constexpr float kSure = 0.49f, kFar = 1e6f;  // `nearest` is exact up to 4e6
    const Extreme extreme = extreme_of(x, 16);
    const I is_zero = extreme.magnitude < kGroupEpsilon;
    const bool in_range = !any(~(extreme.magnitude < 1e8f));
    const F inverse = (float)-kMost / extreme.value;
    F l[16], w[16], wx[16], above[16], below[16], sum_lx = F{}, sum_l2 = F{};
    auto put = [&](int i, F value) {
        l[i] = value;
        above[i] = select(value == (float)(kMost - 1), splat(kFar), value + kSure);
        below[i] = select(value == (float)-kMost, splat(-kFar), value - kSure);
    };
    for (int i = 0; i < 16; ++i) {
        put(i, to_float(nearest(inverse * x[i], -kMost, kMost - 1)));
        w[i] = x[i] * x[i];
        wx[i] = w[i] * x[i];
        sum_lx += wx[i] * l[i];
        sum_l2 += w[i] * l[i] * l[i];
    }
    for (int round = 0; round < 5; ++round) {
        I changed = I{};
        for (int i = 0; i < 16; ++i) {
            F lx = sum_lx - wx[i] * l[i], l2 = sum_l2 - w[i] * l[i] * l[i];
            const F xl2 = x[i] * l2;
            const I open = (lx > 0.f) & ~is_zero;
            const I stays = (xl2 <= above[i] * lx) & (xl2 >= below[i] * lx) & (lx >= 1e-30f);
            if (in_range && !any(open & ~stays)) continue;
            const F next = to_float(nearest(xl2 / lx, -kMost, kMost - 1));
            lx += wx[i] * next;
            l2 += w[i] * next * next;
            const I better = open & (next != l[i]) & (l2 > 0.f) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2);
            put(i, select(better, next, l[i]));
            sum_lx = select(better, lx, sum_lx);
            sum_l2 = select(better, l2, sum_l2);
            changed |= better;
        }
        if (!any(changed)) break;
    }
    for (int i = 0; i < 16; ++i) integers[i] = select(is_zero, I{}, truncated(l[i]) + kMost);
    return select(is_zero | ~(sum_l2 > 0.f), F{}, sum_lx / sum_l2);
}

// The 6-bit scales of q3_K: low nibbles of j and j + 8 share a byte, high bits of j, j + 4, j + 8, j + 12 another.
void put_q3_scales(const Group& g, const I* l) {
    I bytes[12];
    for (int j = 0; j < 8; ++j) bytes[j] = (l[j] & 15) | (l[j + 8] & 15) << 4;
    for (int j = 0; j < 4; ++j) {
        bytes[8 + j] =
            (l[j] >> 4 & 3) | (l[j + 4] >> 4 & 3) << 2 | (l[j + 8] >> 4 & 3) << 4 | (l[j + 12] >> 4 & 3) << 6;
    }
    put_bytes(g, bytes, 12, 96);
}

void put_q3_high_bits(const Group& g, const I* l) {
    for (int j = 0; j < 32; j += 4) {
        I bytes[4];
        for (int k = 0; k < 4; ++k) {
            bytes[k] = I{};
            for (int part = 0; part < 8; ++part) bytes[k] |= (l[32 * part + j + k] >> 2 & 1) << part;
        }
        put_words(g, j, pack_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
    }
}

}  // namespace

void quantize_q3_k(const Group& g) {
    I l[256], scale_l[16];
    F scales[16], sums[16], unit;
    if (g.importance != nullptr) {
        F w[256];
        Scale found[16];
        const F mean = mean_square(g.x, 2.f);
        for (int j = 0; j < 16; ++j) {
            importance_weights(g, mean, 16 * j, 16, w + 16 * j);
            sums[j] = sum_of(w + 16 * j, 16);
        }
        for (int j = 0; j < 16; j += kSideBySide)
            search_scales<16, kSideBySide>(g.x + 16 * j, w + 16 * j, 4, found + j);
        for (int j = 0; j < 16; ++j) {
            for (int i = 16 * j; i < 16 * j + 16; ++i) l[i] = stored_integer(found[j], g.x[i], 4);
            scales[j] = found[j].scale;
        }
        const Scale of_scales = search_scale(scales, sums, 16, 32);
        for (int j = 0; j < 16; ++j) scale_l[j] = stored_integer(of_scales, scales[j], 32);
        unit = of_scales.scale;
    } else {
        for (int j = 0; j < 16; ++j) scales[j] = search_q3(g.x + 16 * j, l + 16 * j);
        const F largest = extreme_of(scales, 16).value;
        const I some = largest != 0.f;
        const F inverse = -32.f / largest;
        for (int j = 0; j < 16; ++j) {
            const I whole = nearest(inverse * scales[j]) << 24 >> 24;
            const I clamped = maximum(minimum(whole, splat_int(31)), splat_int(-32)) + 32;
            scale_l[j] = select(some, clamped, I{});
        }
        unit = select(some, 1.f / inverse, F{});
    }
    uint16_t halves[kLanes];
    const F d_all = through_half(unit, halves);
    put_halves(g, halves, 108);
    for (int j = 0; j < 16; ++j) {
        const F d = d_all * to_float((scale_l[j] & 63) - 32);
        const I keeps = d == 0.f;
        for (int i = 16 * j; i < 16 * j + 16; ++i) l[i] = select(keeps, l[i], nearest(g.x[i] / d, -4, 3) + 4);
    }
    put_q3_scales(g, scale_l);
    put_q3_high_bits(g, l);
    put_two_bits(g, l, 32);
}

namespace {

// The 6-bit scales and mins of q4_K and q5_K, eight of each in twelve bytes.
void put_scales_and_mins(const Group& g, const I* scales, const I* mins) {
    I bytes[12];
    for (int j = 0; j < 4; ++j) {
        bytes[j] = (scales[j] | scales[j + 4] >> 4 << 6) & 0xff;
        bytes[j + 4] = (mins[j] | mins[j + 4] >> 4 << 6) & 0xff;
        bytes[j + 8] = (scales[j + 4] & 15) | (mins[j + 4] & 15) << 4;
    }
    put_bytes(g, bytes, 12, 4);
}

void put_q4_nibbles(const Group& g, const I* l, int offset) {
    for (int part = 0; part < 256; part += 64) {
        for (int j = 0; j < 32; j += 4) {
            I bytes[4];
            for (int k = 0; k < 4; ++k) bytes[k] = (l[part + j + k] & 15) | (l[part + j + k + 32] & 15) << 4;
            put_words(g, offset + part / 2 + j, pack_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
        }
    }
}

void put_q5_high_bits(const Group& g, const I* l) {
    for (int j = 0; j < 32; j += 4) {
        I bytes[4];
        for (int k = 0; k < 4; ++k) {
            bytes[k] = I{};
            for (int part = 0; part < 8; ++part) bytes[k] |= (l[32 * part + j + k] >> 4 & 1) << part;
        }
        put_words(g, 16 + j, pack_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
    }
}

}  // namespace

template <int kBits>
void quantize_q45_k(const Group& g) {
    constexpr int kMost = (1 << kBits) - 1;
    constexpr MinSearch kPlain{kMost, kBits == 4 ? -1.f : -0.5f, 0.1f, kBits == 4 ? 20 : 15};
    constexpr MinSearch kWeighted{kMost, -0.9f, 0.05f, 36};
    ScaleMin found[8];
    F scales[8], mins[8], sums[8], w[256];
    const F mean = g.importance != nullptr ? mean_square(g.x, 2.f) : F{};
    for (int j = 0; j < 8; ++j) {
        if (g.importance != nullptr) {
            importance_weights(g, mean, 32 * j, 32, w + 32 * j);
            sums[j] = sum_of(w + 32 * j, 32);
        } else {
            F sum = F{};
            for (int i = 32 * j; i < 32 * j + 32; ++i) sum += g.x[i] * g.x[i];
            const F average = square_root(sum / 32.f);
            for (int i = 32 * j; i < 32 * j + 32; ++i) w[i] = average + absolute(g.x[i]);
        }
    }
    for (int j = 0; j < 8; j += kSideBySide)
        search_scales_min<false, 32, kSideBySide>(g.x + 32 * j, w + 32 * j,
                                                  g.importance != nullptr ? kWeighted : kPlain, found + j);
    for (int j = 0; j < 8; ++j) {
        scales[j] = found[j].scale;
        mins[j] = found[j].minimum;
    }
    I scale_l[8], min_l[8];
    F unit, min_unit;
    if (g.importance != nullptr) {
        unit = search_positive(scales, sums, 8, 63, scale_l);
        min_unit = search_positive(mins, sums, 8, 63, min_l);
        if (kBits == 5) {
            for (int j = 0; j < 8; ++j) scale_l[j] = minimum(scale_l[j], splat_int(63));
            for (int j = 0; j < 8; ++j) min_l[j] = minimum(min_l[j], splat_int(63));
        }
    } else {
        unit = plain_units<63, true>(scales, 8, scale_l);
        min_unit = plain_units<63, true>(mins, 8, min_l);
    }
    uint16_t halves[kLanes];
    const F d = through_half(unit, halves);
    put_halves(g, halves, 0);
    const F m = through_half(min_unit, halves);
    put_halves(g, halves, 2);
    put_scales_and_mins(g, scale_l, min_l);
    I l[256];
    for (int j = 0; j < 8; ++j) {
        requantize(g, found[j], d * to_float(scale_l[j] & 63), m * to_float(min_l[j] & 63), 32 * j, 32, kMost, l);
    }
    if (kBits == 5) put_q5_high_bits(g, l);
    put_q4_nibbles(g, l, kBits == 5 ? 48 : 16);
}

namespace {

void put_q6_bits(const Group& g, const I* l) {
    for (int half = 0; half < 2; ++half) {
        for (int j = 0; j < 32; j += 4) {
            I first[4], second[4], high[4];
            for (int k = 0; k < 4; ++k) {
                const I* q = l + 128 * half + j + k;
                first[k] = (q[0] & 15) | (q[64] & 15) << 4;
                second[k] = (q[32] & 15) | (q[96] & 15) << 4;
                high[k] = (q[0] >> 4 & 3) | (q[32] >> 4 & 3) << 2 | (q[64] >> 4 & 3) << 4 | (q[96] >> 4 & 3) << 6;
            }
            put_words(g, 64 * half + j, pack_bytes(first[0], first[1], first[2], first[3]));
            put_words(g, 64 * half + 32 + j, pack_bytes(second[0], second[1], second[2], second[3]));
            put_words(g, 128 + 32 * half + j, pack_bytes(high[0], high[1], high[2], high[3]));
        }
    }
}

}  // namespace

void quantize_q6_k(const Group& g) {
    Scale found[16];
    F scales[16], w[256];
    for (int i = 0; i < 256; ++i) w[i] = g.importance != nullptr ? g.importance_of(i) : g.x[i] * g.x[i];
    for (int j = 0; j < 16; j += kSideBySide) search_scales<16, kSideBySide>(g.x + 16 * j, w + 16 * j, 32, found + j);
    for (int j = 0; j < 16; ++j) scales[j] = found[j].scale;
    const Extreme extreme = extreme_of(scales, 16);
    const I is_zero = extreme.magnitude < kGroupEpsilon;
    const F inverse = -128.f / extreme.value;
    uint16_t halves[kLanes];
    const F d_all = through_half(select(is_zero, F{}, 1.f / inverse), halves);
    put_halves(g, halves, 208);
    I scale_l[16], l[256];
    for (int j = 0; j < 16; ++j) {
        const I whole = minimum(nearest(inverse * scales[j]), splat_int(127)) << 24 >> 24;
        scale_l[j] = select(is_zero, I{}, whole);
        requantize(g, found[j], d_all * to_float(scale_l[j]), 16 * j, 16, 32, l);
        for (int i = 16 * j; i < 16 * j + 16; ++i) l[i] = select(is_zero, I{}, l[i]);
        scale_l[j] &= 0xff;
    }
    put_bytes(g, scale_l, 16, 192);
    put_q6_bits(g, l);
}

template void quantize_q45_k<4>(const Group&);
template void quantize_q45_k<5>(const Group&);

}  // namespace whisq::WHISQ_ISA
