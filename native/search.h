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

template <bool kInRange>
inline F rounded(F value, int low, int high) {
    if constexpr (kInRange) return nearest_float(value, (float)low, (float)high);
    return to_float(nearest(value, low, high));
}

// The candidates of a symmetric search: -9 to 9 tenths around n_max, as -(n_max + tenths / 10) / extreme.
constexpr int kScales = 19, kPlainScale = 9;

struct ScaleSums {
    F inverse[kScales], lx[kScales], l2[kScales];
};

// The sums of kCount candidates from kFirst on: they do not wait for each other, and have to fit in registers. Below
// n_max - 0.5 no product reaches n_max, and below n_max + 0.5 none -n_max - 1: what then cannot be is not clamped.
template <bool kInRange, int kSize, int kFirst, int kCount>
void try_scales(const F* x, const F* w, const F* wx, int n_max, F extreme, ScaleSums& sums) {
    constexpr int kLastTenths = kFirst + kCount - 1 - kPlainScale;
    F factor[kCount], lx[kCount], l2[kCount];
    for (int k = 0; k < kCount; ++k) {
        factor[k] = splat(-((float)n_max + 0.1f * (float)(kFirst + k - kPlainScale))) / extreme;
        lx[k] = l2[k] = F{};
    }
    for (int i = 0; i < kSize; ++i) {
        for (int k = 0; k < kCount; ++k) {
            F l = factor[k] * x[i];
            if constexpr (kInRange) {
                l = nearest_float(l);
                if constexpr (kLastTenths > -6) l = minimum(l, splat((float)(n_max - 1)));
                if constexpr (kLastTenths > 4) l = maximum(l, splat((float)-n_max));
            } else {
                l = to_float(nearest(l, -n_max, n_max - 1));
            }
            lx[k] += wx[i] * l;
            l2[k] += w[i] * l * l;
        }
    }
    for (int k = 0; k < kCount; ++k) {
        sums.inverse[kFirst + k] = factor[k];
        sums.lx[kFirst + k] = lx[k];
        sums.l2[kFirst + k] = l2[k];
    }
}

template <bool kInRange, int kSize>
void try_all_scales(const F* x, const F* w, int n_max, F extreme, ScaleSums& sums) {
    F wx[kSize];
    for (int i = 0; i < kSize; ++i) wx[i] = w[i] * x[i];
    if constexpr (kLanes == 16) {
        try_scales<kInRange, kSize, 0, 4>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 4, 5>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 9, 5>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 14, 5>(x, w, wx, n_max, extreme, sums);
    } else {
        try_scales<kInRange, kSize, 0, 2>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 2, 2>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 4, 2>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 6, 2>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 8, 2>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 10, 2>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 12, 2>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 14, 2>(x, w, wx, n_max, extreme, sums);
        try_scales<kInRange, kSize, 16, 3>(x, w, wx, n_max, extreme, sums);
    }
}

// Weighted searches for the symmetric scales of kBlocks blocks of kSize elements, one after another in x and w, the
// weights. Choosing is a chain of comparisons, so that those of all blocks go side by side.
template <int kSize, int kBlocks>
void search_scales(const F* x, const F* w, int n_max, Scale* found) {
    ScaleSums sums[kBlocks];
    F scale[kBlocks], best[kBlocks], inverse[kBlocks];
    for (int k = 0; k < kBlocks; ++k) {
        const F *values = x + k * kSize, *weights = w + k * kSize;
        const Extreme extreme = extreme_of(values, kSize);
        found[k].is_zero = extreme.magnitude < kGroupEpsilon;
        const I in_range = (extreme.magnitude >= kGroupEpsilon) & (extreme.magnitude < 1e30f);
        if (any(~in_range & ~found[k].is_zero))
            try_all_scales<false, kSize>(values, weights, n_max, extreme.value, sums[k]);
        else
            try_all_scales<true, kSize>(values, weights, n_max, extreme.value, sums[k]);
        const F lx = sums[k].lx[kPlainScale], l2 = sums[k].l2[kPlainScale];
        scale[k] = select(l2 != 0.f, lx / l2, F{});
        best[k] = scale[k] * lx;
        inverse[k] = sums[k].inverse[kPlainScale];
    }
    for (int number = 0; number < kScales; ++number) {
        if (number == kPlainScale) continue;
        for (int k = 0; k < kBlocks; ++k) {
            const F lx = sums[k].lx[number], l2 = sums[k].l2[number], quotient = lx / l2;
            const I better = (l2 > 0.f) & (lx * lx > best[k] * l2);
            scale[k] = select(better, quotient, scale[k]);
            best[k] = select(better, quotient * lx, best[k]);
            inverse[k] = select(better, sums[k].inverse[number], inverse[k]);
        }
    }
    for (int k = 0; k < kBlocks; ++k) {
        found[k].scale = select(found[k].is_zero, F{}, scale[k]);
        found[k].inverse = inverse[k];
    }
}

// The same for one block of n elements, 16 or 32.
inline Scale search_scale(const F* x, const F* w, int n, int n_max) {
    Scale found;
    n == 16 ? search_scales<16, 1>(x, w, n_max, &found) : search_scales<32, 1>(x, w, n_max, &found);
    return found;
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
    int n_max;
    float from, step;
    int n_steps;
};

// What a search for a scale and a minimum knows of a block before it tries anything.
struct SearchRange {
    F low, high, sum_w, sum_x;
    I is_flat;
    bool in_range;
};

template <int kSize>
SearchRange range_for_search(const F* x, const F* w) {
    F low = x[0], high = x[0], sum_w = w[0], sum_x = sum_w * x[0];
    for (int i = 1; i < kSize; ++i) {
        low = minimum(x[i], low);
        high = maximum(x[i], high);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    low = select(low > 0.f, F{}, low);
    const I is_flat = high == low;
    // The tries move the minimum, and with it the range: below this spread an inverse could overflow.
    const I in_range = (high - low > 1e-25f) & (high < 1e30f) & (low > -1e30f);
    return {low, high, sum_w, sum_x, is_flat, !any(~(in_range | is_flat))};
}

// Integers of one try, and the sums that give its scale and minimum.
template <bool kInRange, int kSize>
void try_integers(const F* x, const F* w, F inverse, F minimum, int n_max, F* l, F* sums) {
    F sum_l = F{}, sum_l2 = F{}, sum_xl = F{};
    for (int i = 0; i < kSize; ++i) {
        l[i] = rounded<kInRange>(inverse * (x[i] - minimum), 0, n_max);
        const F wl = w[i] * l[i];
        sum_l += wl;
        sum_l2 += wl * l[i];
        sum_xl += wl * x[i];
    }
    sums[0] = sum_l;
    sums[1] = sum_l2;
    sums[2] = sum_xl;
}

template <bool kAbsolute>
F error_at(F x, F w, F scale, F minimum, F l) {
    const F difference = scale * l + minimum - x;
    return w * (kAbsolute ? absolute(difference) : difference * difference);
}

// Searches of kBlocks neighbouring blocks side by side, so that the additions of one fill the waits of another.
template <bool kInRange, bool kAbsolute, int kSize, int kBlocks>
void search_scale_min_as(const F* x, const F* w, const MinSearch& s, const SearchRange* range, ScaleMin* found) {
    F l[kBlocks][kSize], inverse[kBlocks], base[kBlocks], scale[kBlocks], best[kBlocks], error[kBlocks];
    const float n_max = (float)s.n_max;
    auto weigh = [&](const F* by_scale, const F* by_minimum) {
        F sum[kBlocks], a[kBlocks], b[kBlocks];
        for (int k = 0; k < kBlocks; ++k) sum[k] = F{}, a[k] = by_scale[k], b[k] = by_minimum[k];
        for (int i = 0; i < kSize; ++i)
            for (int k = 0; k < kBlocks; ++k)
                sum[k] += error_at<kAbsolute>(x[k * kSize + i], w[k * kSize + i], a[k], b[k], l[k][i]);
        for (int k = 0; k < kBlocks; ++k) error[k] = sum[k];
    };
    for (int k = 0; k < kBlocks; ++k) {
        base[k] = range[k].low;
        inverse[k] = n_max / (range[k].high - range[k].low);
        scale[k] = 1.f / inverse[k];
        for (int i = 0; i < kSize; ++i)
            l[k][i] = rounded<kInRange>(inverse[k] * (x[k * kSize + i] - base[k]), 0, s.n_max);
        found[k] = {F{}, F{}, inverse[k], base[k], range[k].is_flat};
    }
    weigh(scale, base);
    for (int k = 0; k < kBlocks; ++k) best[k] = error[k];
    for (int step = 0; step <= s.n_steps; ++step) {
        F sums[kBlocks][3], determinant[kBlocks], this_scale[kBlocks], this_minimum[kBlocks];
        I too_far = I{};
        for (int k = 0; k < kBlocks; ++k) {
            const F low = range[k].low, high = range[k].high;
            inverse[k] = splat(s.from + s.step * (float)step + n_max) / (high - base[k]);
            // A minimum that moved may have left values too far out for the fast rounding.
            const F reach = absolute(inverse[k]) * maximum(absolute(low - base[k]), absolute(high - base[k]));
            too_far |= ~(reach < 2e6f) & ~range[k].is_flat;
        }
        if (kInRange && any(too_far))
            return search_scale_min_as<false, kAbsolute, kSize, kBlocks>(x, w, s, range, found);
        for (int k = 0; k < kBlocks; ++k)
            try_integers<kInRange, kSize>(x + k * kSize, w + k * kSize, inverse[k], base[k], s.n_max, l[k], sums[k]);
        for (int k = 0; k < kBlocks; ++k) {
            const F sum_l = sums[k][0], sum_l2 = sums[k][1], sum_xl = sums[k][2];
            const F sum_w = range[k].sum_w, sum_x = range[k].sum_x;
            determinant[k] = sum_w * sum_l2 - sum_l * sum_l;
            this_scale[k] = (sum_w * sum_xl - sum_x * sum_l) / determinant[k];
            this_minimum[k] = (sum_l2 * sum_x - sum_l * sum_xl) / determinant[k];
            const I above = this_minimum[k] > 0.f;
            this_scale[k] = select(above, sum_xl / sum_l2, this_scale[k]);
            this_minimum[k] = select(above, F{}, this_minimum[k]);
        }
        weigh(this_scale, this_minimum);
        for (int k = 0; k < kBlocks; ++k) {
            const I better = (determinant[k] > 0.f) & (error[k] < best[k]) & ~range[k].is_flat;
            found[k].inverse = select(better, inverse[k], found[k].inverse);
            found[k].base = select(better, base[k], found[k].base);
            best[k] = select(better, error[k], best[k]);
            scale[k] = select(better, this_scale[k], scale[k]);
            base[k] = select(better, this_minimum[k], base[k]);
        }
    }
    for (int k = 0; k < kBlocks; ++k) {
        found[k].scale = select(range[k].is_flat, F{}, scale[k]);
        found[k].minimum = -base[k];
    }
}

// Weighted searches for a scale and a minimum over kBlocks blocks of kSize elements, one after another in x and w.
template <bool kAbsolute, int kSize, int kBlocks>
void search_scales_min(const F* x, const F* w, const MinSearch& s, ScaleMin* found) {
    SearchRange range[kBlocks];
    bool in_range = true;
    for (int k = 0; k < kBlocks; ++k) {
        range[k] = range_for_search<kSize>(x + k * kSize, w + k * kSize);
        in_range &= range[k].in_range;
    }
    if (in_range)
        search_scale_min_as<true, kAbsolute, kSize, kBlocks>(x, w, s, range, found);
    else
        search_scale_min_as<false, kAbsolute, kSize, kBlocks>(x, w, s, range, found);
}

// The same for one block of n elements, 16 or 32.
inline ScaleMin search_scale_min(const F* x, const F* w, int n, const MinSearch& s) {
    ScaleMin found;
    n == 16 ? search_scales_min<false, 16, 1>(x, w, s, &found) : search_scales_min<false, 32, 1>(x, w, s, &found);
    return found;
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
