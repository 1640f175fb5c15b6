// Scales, minimums and integers that lie near the weights: a search for each block, every lane its own.
//
// From many starts the integers are taken, then the scale and offset that fit them best, as the type can write them;
// what loses least with its integers taken anew is kept and tried once more, with its neighbours in f16. In a
// super-block that is done for every sub-block without a thought of its units; then units are tried, the sub-blocks'
// integers moved one by one, and units fitted to what came of it. kernels/reference_fit.py is the same in numpy.
#pragma once

#include "feedback.h"
#include "search.h"

namespace whisq::WHISQ_ISA {

// How far a search goes. What the numbers are: of base's matrices, weights' error within 0.1 % of three times as many.
struct Reach {
    int n;              // starts: scales for either end of the levels, or ends of the range that go inwards
    float first, step;  // of the largest weight's place beyond the last level, or of the range that is cut off
    int refits;         // of the best
    int halves;         // neighbours in f16 on each side
    int units;          // tried for a super-block
    float unit_step;
};

constexpr Reach reach_of(Type type) {
    switch (type) {
        case kQ4_0:
            return {24, 0.68f, 0.025f, 1, 1, 0, 0};
        case kQ5_0:
            return {24, 0.8f, 0.015f, 1, 1, 0, 0};
        case kQ8_0:
            return {24, 0.88f, 0.005f, 1, 2, 0, 0};
        case kQ4_1:
            return {5, -0.08f, 0.04f, 2, 1, 0, 0};
        case kQ5_1:
            return {6, -0.08f, 0.02f, 2, 1, 0, 0};
        case kQ2_K:
            return {4, -0.05f, 0.1f, 2, 0, 7, 0.05f};
        case kQ3_K:
            return {16, 0.55f, 0.05f, 1, 0, 5, 0.05f};
        case kQ4_K:
            return {5, -0.08f, 0.04f, 2, 0, 5, 0.025f};
        case kQ5_K:
            return {5, -0.05f, 0.02f, 2, 0, 3, 0.03f};
        case kQ6_K:
            return {16, 0.8f, 0.015f, 1, 0, 3, 0.03f};
        case kIQ4_NL:
            return {12, 0.7f, 0.05f, 1, 1, 0, 0};
        case kIQ4_XS:
            return {12, 0.7f, 0.05f, 1, 0, 5, 0.025f};
        case kMXFP4:
            return {4, 0.5f, 0.5f, 0, 0, 0, 0};
        case kF32:
        case kF16:
        case kBF16:
            break;
    }
    return {0, 0, 0, 0, 0, 0, 0};  // no blocks
}
static_assert(answers_every_row([](Type type) {
                  return row_index(type) >= 0 && (is_dense(row_of(type)) || reach_of(type).n > 0);
              }),
              "a type with blocks has no search");

// Of this the next half up or down is the nearest: from 0.6 to 1.2 of the step from one half to another.
constexpr float kOneHalf = 0.0006f;
constexpr int kUnitRounds = 3;  // integers moved and units fitted
constexpr float kWorst = 3.4e38f;

// A block decodes to scale * value + offset.
struct Scales {
    F scale{}, offset{};
};

// Sums over a block's weights of w * value^2, w * value, w, w * value * error and w * error.
struct Normal {
    F vv{}, v{}, w{}, ve{}, e{};

    // The change of scale and offset that loses least, the values as they are.
    template <bool kHasOffset>
    Scales solved() const {
        const F alone = select(vv > 0.f, ve / vv, F{});
        if (!kHasOffset) return {alone, F{}};
        const F determinant = vv * w - v * v;
        const I sound = determinant > 1e-6f * (vv * w);
        return {select(sound, (w * ve - v * e) / determinant, alone),
                select(sound, (vv * e - v * ve) / determinant, F{})};
    }
};

// The search of one type. `x` are the weights of a block or sub-block, `w` what an error of each costs.
template <Type kType>
struct Fitter {
    static constexpr TypeRow row = row_of(kType);
    static constexpr Levels levels = row.levels;
    static constexpr Reach reach = reach_of(kType);
    static constexpr bool is_super = row.subs.n != 0, has_offset = levels.has_minimum;
    static constexpr int size = sub_size(row), n_subs = is_super ? row.subs.n : 1;
    static constexpr float lowest = levels.has_book ? levels.book->value[0] : levels.low;
    static constexpr float highest = levels.has_book ? levels.book->value[levels.book->n - 1] : levels.high;

    struct Found {
        Scales scales;
        F loss = splat(kWorst);

        void keep(Scales other, F other_loss) {
            const I better = other_loss < loss;
            loss = select(better, other_loss, loss);
            scales.scale = select(better, other.scale, scales.scale);
            scales.offset = select(better, other.offset, scales.offset);
        }
    };

    static F inverse_of(F scale) { return select(scale != 0.f, 1.f / scale, F{}); }

    // The value nearest to a weight, and what is then left of the weight.
    static F nearest_to(F x, Scales s, F inverse, F& error) {
        const F scaled = has_offset ? (x - s.offset) * inverse : x * inverse;
        F value;
        if constexpr (levels.has_book)
            value = nearest_value(*levels.book, scaled);
        else
            value = nearest_float(scaled, levels.low, levels.high);
        error = has_offset ? x - (s.scale * value + s.offset) : x - s.scale * value;
        return value;
    }

    static F loss(const F* x, const F* w, Scales s) {
        const F inverse = inverse_of(s.scale);
        F sum{}, error;
        for (int j = 0; j < size; ++j) {
            nearest_to(x[j], s, inverse, error);
            sum += w[j] * error * error;
        }
        return sum;
    }

    static Normal normal(const F* x, const F* w, Scales s) {
        const F inverse = inverse_of(s.scale);
        Normal sums;
        for (int j = 0; j < size; ++j) {
            F error;
            const F value = nearest_to(x[j], s, inverse, error), wv = w[j] * value;
            sums.vv += wv * value;
            sums.ve += wv * error;
            if (has_offset) {
                sums.v += wv;
                sums.w += w[j];
                sums.e += w[j] * error;
            }
        }
        return sums;
    }

    // The nearest that the type can write; of a sub-block any, but that its offset is not positive.
    static Scales written(Scales s) {
        if constexpr (!is_super) return {as_written(levels, s.scale), has_offset ? as_half(s.offset) : F{}};
        return {s.scale, has_offset ? minimum(s.offset, F{}) : F{}};
    }

    // Fit scale and offset to the values that they give, and keep them where they lose less.
    static void attempt(const F* x, const F* w, Scales s, Found& best) {
        const Normal sums = normal(x, w, s);
        const Scales by = sums.template solved<has_offset>();
        Scales next{s.scale + by.scale, s.offset + by.offset};
        if constexpr (is_super && has_offset) {
            const F alone = s.scale + select(sums.vv > 0.f, (sums.ve + s.offset * sums.v) / sums.vv, F{});
            next.scale = select(next.offset > 0.f, alone, next.scale);
        }
        next = written(next);
        best.keep(next, loss(x, w, next));
    }

    static Found search(const F* x, const F* w) {
        Found best;
        if constexpr (has_offset) {
            F low = x[0], high = x[0];
            for (int j = 1; j < size; ++j) low = minimum(x[j], low), high = maximum(x[j], high);
            if (is_super) low = minimum(low, F{});
            const F spread = high - low;
            for (int below = 0; below < reach.n; ++below) {
                for (int above = 0; above < reach.n; ++above) {
                    const F from = low + spread * (reach.first + reach.step * (float)below);
                    const F to = high - spread * (reach.first + reach.step * (float)above);
                    attempt(x, w, written({(to - from) / levels.high, from}), best);
                }
            }
        } else {
            const F largest = extreme_of(x, size).value;
            for (const float end : {lowest, highest})
                for (int i = 0; i < reach.n; ++i)
                    attempt(x, w, written({largest / (end * (reach.first + reach.step * (float)i)), F{}}), best);
        }
        for (int round = 0; round < reach.refits; ++round) attempt(x, w, best.scales, best);
        const Scales centre = best.scales;
        constexpr int kOffsets = has_offset ? reach.halves : 0;
        for (int a = -reach.halves; a <= reach.halves; ++a) {
            for (int b = -kOffsets; b <= kOffsets; ++b) {
                const Scales near = written({centre.scale * (1.f + kOneHalf * (float)a),  //
                                             centre.offset * (1.f + kOneHalf * (float)b)});
                if (a != 0 || b != 0) best.keep(near, loss(x, w, near));
            }
        }
        return best;
    }
};

// The search of a type whose blocks have parts.
template <Type kType>
struct SuperFitter {
    using Part = Fitter<kType>;
    static constexpr int size = Part::size, n = Part::n_subs;
    static constexpr SubBlocks subs = Part::row.subs;
    static constexpr bool has_offset = Part::has_offset;

    // Units, and the sub-blocks' integers with what each loses.
    struct State {
        F unit{}, minimum_unit{}, loss = splat(kWorst);
        F integer[n]{}, minimum[n]{}, losses[n]{};

        Scales at(F scale_l, F minimum_l) const {
            return {unit * scale_l, has_offset ? -(minimum_unit * minimum_l) : F{}};
        }
        Scales part(int j) const { return at(integer[j], minimum[j]); }

        void keep(const State& other) {
            const I better = other.loss < loss;
            const auto take = [&](F& mine, const F& theirs) { mine = select(better, theirs, mine); };
            take(unit, other.unit), take(minimum_unit, other.minimum_unit), take(loss, other.loss);
            for (int j = 0; j < n; ++j) {
                take(integer[j], other.integer[j]), take(minimum[j], other.minimum[j]);
                take(losses[j], other.losses[j]);
            }
        }
    };

    static void rate(const F* x, const F* w, State& s) {
        s.loss = F{};
        for (int j = 0; j < n; ++j) {
            s.losses[j] = Part::loss(x + j * size, w + j * size, s.part(j));
            s.loss += s.losses[j];
        }
    }

    static void attempt(const F* x, const F* w, const Scales* found, F unit, F minimum_unit, State& best) {
        State s;
        s.unit = as_half(unit);
        if (has_offset) s.minimum_unit = as_half(minimum_unit);
        const F inverse = Part::inverse_of(s.unit), minimum_inverse = Part::inverse_of(s.minimum_unit);
        for (int j = 0; j < n; ++j) {
            s.integer[j] = nearest_float(found[j].scale * inverse, subs.scale_low, subs.scale_high);
            if (has_offset) s.minimum[j] = nearest_float(-found[j].offset * minimum_inverse, 0.f, subs.scale_high);
        }
        rate(x, w, s);
        best.keep(s);
    }

    // Move every sub-block's integers by one, both at once where there are two.
    static void descend(const F* x, const F* w, State& s) {
        constexpr int kMinimums = has_offset ? 1 : 0;
        s.loss = F{};
        for (int j = 0; j < n; ++j) {
            const F scale_l = s.integer[j], minimum_l = s.minimum[j];
            for (int a = -1; a <= 1; ++a) {
                for (int b = -kMinimums; b <= kMinimums; ++b) {
                    if (a == 0 && b == 0) continue;
                    const F next = maximum(minimum(scale_l + (float)a, splat(subs.scale_high)), splat(subs.scale_low));
                    const F next_minimum = maximum(minimum(minimum_l + (float)b, splat(subs.scale_high)), F{});
                    const F loss = Part::loss(x + j * size, w + j * size, s.at(next, next_minimum));
                    const I better = loss < s.losses[j];
                    s.integer[j] = select(better, next, s.integer[j]);
                    s.minimum[j] = select(better, next_minimum, s.minimum[j]);
                    s.losses[j] = select(better, loss, s.losses[j]);
                }
            }
            s.loss += s.losses[j];
        }
    }

    static void refit(const F* x, const F* w, State& s) {
        Normal all;
        for (int j = 0; j < n; ++j) {
            const Normal part = Part::normal(x + j * size, w + j * size, s.part(j));
            const F l = s.integer[j], m = -s.minimum[j];
            all.vv += l * l * part.vv;
            all.ve += l * part.ve;
            if (has_offset) {
                all.v += l * m * part.v;
                all.w += m * m * part.w;
                all.e += m * part.e;
            }
        }
        const Scales by = all.template solved<has_offset>();
        State next = s;
        next.unit = as_half(s.unit + by.scale);
        if (has_offset) next.minimum_unit = as_half(s.minimum_unit + by.offset);
        rate(x, w, next);
        s.keep(next);
    }

    static State search(const F* x, const F* w) {
        Scales found[n];
        F scales[n], minimums[n];
        for (int j = 0; j < n; ++j) {
            found[j] = Part::search(x + j * size, w + j * size).scales;
            scales[j] = found[j].scale;
            minimums[j] = -found[j].offset;
        }
        constexpr float kEnd = subs.scale_low < 0 ? subs.scale_low : subs.scale_high;
        const F unit = extreme_of(scales, n).value / kEnd,
                minimum_unit = extreme_of(minimums, n).value / subs.scale_high;
        constexpr int kUnits = Part::reach.units;
        const auto factor = [](int number) { return 1.f + Part::reach.unit_step * (float)(number - kUnits / 2); };
        State best;
        for (int a = 0; a < kUnits; ++a)
            for (int b = 0; b < (has_offset ? kUnits : 1); ++b)
                attempt(x, w, found, unit * factor(a), minimum_unit * factor(b), best);
        for (int round = 0; round < kUnitRounds; ++round) {
            descend(x, w, best);
            refit(x, w, best);
        }
        return best;
    }
};

}  // namespace whisq::WHISQ_ISA
