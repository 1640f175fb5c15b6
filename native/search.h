// The searches for a block's scale, each lane its own block. The arithmetic and its order are ggml's
// (ggml-quants.c: make_qx_quants, make_qkx2_quants, make_qkx3_quants, make_qp_quants, make_q3_quants).
//
// Where ggml writes the integers of a better try into an array, these keep the numbers that gave them; the
// integers are taken once, at the end, and often not at all.
#pragma once

#include "group.h"

namespace whisq::WHISQ_ISA {

// Of the largest magnitude: the value itself, first come.
struct Extreme {
    F value, magnitude;
};

inline Extreme extreme_of(const F* x, int n) {
    Extreme found{F{}, F{}};
    for (int i = 0; i < n; ++i) {
        const F magnitude = absolute(x[i]);
        const I larger = magnitude > found.magnitude;
        found.magnitude = select(larger, magnitude, found.magnitude);
        found.value = select(larger, x[i], found.value);
    }
    return found;
}

// A symmetric scale: x ~ scale * l, l in [-n_max, n_max - 1].
struct Scale {
    F scale;
    F inverse;  // l = nearest(inverse * x)
    I is_zero;  // lanes whose block counts as all zero: scale 0, stored integers 0
};

// Stored integers l + n_max of a symmetric search.
inline I stored_integer(const Scale& found, F x, int n_max) {
    return select(found.is_zero, I{}, nearest(found.inverse * x, -n_max, n_max - 1) + n_max);
}

template <bool kTame>
inline F rounded(F value, int low, int high) {
    if constexpr (kTame) return nearest_float(value, (float)low, (float)high);
    return to_float(nearest(value, low, high));
}

template <bool kTame>
Scale search_scale_as(const F* x, const F* w, int n, int n_max, const Extreme& extreme, I is_zero) {
    F wx[32];
    for (int i = 0; i < n; ++i) wx[i] = w[i] * x[i];
    auto sums = [&](F inverse, F& sum_lx, F& sum_l2) {
        sum_lx = sum_l2 = F{};
        for (int i = 0; i < n; ++i) {
            const F l = rounded<kTame>(inverse * x[i], -n_max, n_max - 1);
            sum_lx += wx[i] * l;
            sum_l2 += w[i] * l * l;
        }
    };
    F inverse = -splat((float)n_max) / extreme.value, sum_lx, sum_l2;
    sums(inverse, sum_lx, sum_l2);
    F scale = select(sum_l2 != 0.f, sum_lx / sum_l2, F{});
    F best = scale * sum_lx, best_inverse = inverse;
    for (int step = -9; step <= 9; ++step) {
        if (step == 0) continue;
        inverse = splat(-((float)n_max + 0.1f * (float)step)) / extreme.value;
        sums(inverse, sum_lx, sum_l2);
        const I better = (sum_l2 > 0.f) & (sum_lx * sum_lx > best * sum_l2);
        if (!any(better)) continue;
        scale = select(better, sum_lx / sum_l2, scale);
        best = select(better, scale * sum_lx, best);
        best_inverse = select(better, inverse, best_inverse);
    }
    return {select(is_zero, F{}, scale), best_inverse, is_zero};
}

// Weighted search for a symmetric scale over n <= 32 elements; w are the weights.
inline Scale search_scale(const F* x, const F* w, int n, int n_max) {
    const Extreme extreme = extreme_of(x, n);
    const I is_zero = extreme.magnitude < kGroupEpsilon;
    const I is_wild = ~((extreme.magnitude >= kGroupEpsilon) & (extreme.magnitude < 1e30f)) & ~is_zero;
    if (any(is_wild)) return search_scale_as<false>(x, w, n, n_max, extreme, is_zero);
    return search_scale_as<true>(x, w, n, n_max, extreme, is_zero);
}

// A scale and a minimum: x ~ scale * l - minimum, l in [0, n_max].
struct ScaleMin {
    F scale, minimum;
    F inverse, base;  // l = nearest(inverse * (x - base))
    I is_flat;        // lanes whose values are all one: scale 0, integers 0
};

inline I stored_integer(const ScaleMin& found, F x, int n_max) {
    return select(found.is_flat, I{}, nearest(found.inverse * (x - found.base), 0, n_max));
}

struct MinSearch {
    int n, n_max;
    float from, step;
    int n_steps;
    bool absolute_error;
};

template <bool kTame, bool kAbsolute>
ScaleMin search_scale_min_as(const F* x, const F* w, const MinSearch& s, F low, F high, F sum_w, F sum_x, I is_flat) {
    F l[32];
    const float n_max = (float)s.n_max;
    auto weighted_error = [&](F scale, F minimum) {
        F error = F{};
        for (int i = 0; i < s.n; ++i) {
            const F difference = scale * l[i] + minimum - x[i];
            error += w[i] * (kAbsolute ? absolute(difference) : difference * difference);
        }
        return error;
    };
    ScaleMin found{};
    F minimum = low, inverse = n_max / (high - low);
    F scale = 1.f / inverse;
    for (int i = 0; i < s.n; ++i) l[i] = rounded<kTame>(inverse * (x[i] - minimum), 0, s.n_max);
    F best = weighted_error(scale, minimum);
    found.inverse = inverse;
    found.base = minimum;
    for (int step = 0; step <= s.n_steps; ++step) {
        inverse = splat(s.from + s.step * (float)step + n_max) / (high - minimum);
        if constexpr (kTame) {
            // A minimum that moved may have left values too far out for the fast rounding.
            const F reach = absolute(inverse) * maximum(absolute(low - minimum), absolute(high - minimum));
            if (any(~(reach < 2e6f) & ~is_flat))
                return search_scale_min_as<false, kAbsolute>(x, w, s, low, high, sum_w, sum_x, is_flat);
        }
        F sum_l = F{}, sum_l2 = F{}, sum_xl = F{};
        for (int i = 0; i < s.n; ++i) {
            l[i] = rounded<kTame>(inverse * (x[i] - minimum), 0, s.n_max);
            const F wl = w[i] * l[i];
            sum_l += wl;
            sum_l2 += wl * l[i];
            sum_xl += wl * x[i];
        }
        const F determinant = sum_w * sum_l2 - sum_l * sum_l;
        F this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        F this_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        const I above = this_minimum > 0.f;
        this_scale = select(above, sum_xl / sum_l2, this_scale);
        this_minimum = select(above, F{}, this_minimum);
        const F error = weighted_error(this_scale, this_minimum);
        const I better = (determinant > 0.f) & (error < best) & ~is_flat;
        if (!any(better)) continue;
        found.inverse = select(better, inverse, found.inverse);
        found.base = select(better, minimum, found.base);
        best = select(better, error, best);
        scale = select(better, this_scale, scale);
        minimum = select(better, this_minimum, minimum);
    }
    found.scale = select(is_flat, F{}, scale);
    found.minimum = -minimum;
    found.is_flat = is_flat;
    return found;
}

// Weighted search for a scale and a minimum over s.n <= 32 elements.
inline ScaleMin search_scale_min(const F* x, const F* w, const MinSearch& s) {
    F low = x[0], high = x[0], sum_w = w[0], sum_x = sum_w * x[0];
    for (int i = 1; i < s.n; ++i) {
        low = select(x[i] < low, x[i], low);
        high = select(x[i] > high, x[i], high);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    low = select(low > 0.f, F{}, low);
    const I is_flat = high == low;
    const F spread = high - low;
    // The tries move the minimum, and with it the range: below this spread an inverse could overflow.
    const I is_tame = (spread > 1e-25f) & (high < 1e30f) & (low > -1e30f);
    const bool tame = !any(~(is_tame | is_flat));
    if (s.absolute_error) {
        return tame ? search_scale_min_as<true, true>(x, w, s, low, high, sum_w, sum_x, is_flat)
                    : search_scale_min_as<false, true>(x, w, s, low, high, sum_w, sum_x, is_flat);
    }
    return tame ? search_scale_min_as<true, false>(x, w, s, low, high, sum_w, sum_x, is_flat)
                : search_scale_min_as<false, false>(x, w, s, low, high, sum_w, sum_x, is_flat);
}

// Quantize the n <= 16 scales of a super-block, none negative, to integers in [0, n_max]; returns their unit.
inline F search_positive(const F* x, const F* w, int n, int n_max, I* integers) {
    F largest = F{};
    for (int i = 0; i < n; ++i) largest = maximum(largest, x[i]);
    const I is_zero = largest < kGroupEpsilon;
    F inverse = (float)n_max / largest;
    const F scale = 1.f / inverse;
    F best = F{};
    for (int i = 0; i < n; ++i) {
        const F difference = x[i] - scale * to_float(nearest(inverse * x[i]) & 0xff);
        best += w[i] * difference * difference;
    }
    for (int step = -4; step <= 4; ++step) {
        if (step == 0) continue;
        const F try_inverse = splat(0.1f * (float)step + (float)n_max) / largest;
        const F try_scale = 1.f / try_inverse;
        F error = F{};
        for (int i = 0; i < n; ++i) {
            const I l = minimum(nearest(try_inverse * x[i]), splat_int(n_max));
            const F difference = x[i] - try_scale * to_float(l);
            error += w[i] * difference * difference;
        }
        const I better = error < best;
        best = select(better, error, best);
        inverse = select(better, try_inverse, inverse);
    }
    F sum_lx = F{}, sum_l2 = F{};
    for (int i = 0; i < n; ++i) {
        const I l = minimum(nearest(inverse * x[i]), splat_int(n_max));
        integers[i] = l & 0xff;
        sum_lx += w[i] * x[i] * to_float(l);
        sum_l2 += w[i] * to_float(l) * to_float(l);
    }
    for (int round = 0; round < 5; ++round) {
        I changed = I{};
        for (int i = 0; i < n; ++i) {
            const F l = to_float(integers[i]);
            F lx = sum_lx - w[i] * x[i] * l, l2 = sum_l2 - w[i] * l * l;
            const I open = (lx > 0.f) & (l2 > 0.f);
            const I next = minimum(nearest(x[i] * l2 / lx), splat_int(n_max));
            const F next_l = to_float(next);
            lx += w[i] * x[i] * next_l;
            l2 += w[i] * next_l * next_l;
            const I better = open & (next != integers[i]) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2);
            integers[i] = select(better, next & 0xff, integers[i]);
            sum_lx = select(better, lx, sum_lx);
            sum_l2 = select(better, l2, sum_l2);
            changed |= better;
        }
        if (!any(changed)) break;
    }
    for (int i = 0; i < n; ++i) integers[i] = select(is_zero, I{}, integers[i]);
    return select(is_zero | ~(sum_l2 > 0.f), F{}, sum_lx / sum_l2);
}

}  // namespace whisq::WHISQ_ISA
