// Rounding with error feedback: columns in order, what each column's rounding took from it made good by the columns
// that are not yet rounded (GPTQ, Frantar et al. 2022, arXiv 2210.17323). What that chose is then improved
// (improve.cpp).
//
// A lane is a row of the matrix: rows do not depend on each other. With H = V diag(gain) V^T (factor.cpp) the loss of a
// row from whose weights rounding took d is the sum of gain[j] * e[j]^2, e = d V: column j is best rounded from its
// weight with all that earlier columns lost, each times its row of V, added. Inside a panel the errors e go to later
// columns instead, by the inverse of V's part there: then every column is what it will be where those between lose
// nothing, which is what a scale is chosen for. It is chosen when the feedback reaches its block, by running the
// feedback through the block for every candidate.
#include "feedback.h"

#include <utility>

#include "families.h"
#include "search.h"
#include "trials.h"

namespace whisq::WHISQ_ISA {
namespace {

// The grids below (steps of 3 % of a scale, how many of them, how far the integers of scales are sought around a fit)
// came with the first version of this pass, and no record says on what matrices they were chosen. What was measured
// since is the pass as a whole: the divergences on held-out speakers, tiny.en and base, in docs/calibration.md.
constexpr float kStep = 0.03f;

// ggml's search for a scale and a minimum with importance (make_qkx3_quants).
MinSearch min_search(const Levels& levels) { return {(int)levels.high, -0.9f, 0.05f, 36}; }

// Columns of a panel of a type without super-blocks. Narrow: every column of a panel costs half its width in products.
constexpr int64_t kNarrow = 64;

struct Range {
    F low, high;
};

Range range_of(const F* x, int n) {
    Range r{x[0], x[0]};
    for (int j = 1; j < n; ++j) {
        r.low = select(x[j] < r.low, x[j], r.low);
        r.high = select(x[j] > r.high, x[j], r.high);
    }
    return r;
}

// Fit scale and offset by least squares to the integers that the best so far gives, as the feedback weighs errors.
void refit(const Block& b, const Levels& levels, Best& best) {
    Rounded now, trial;
    round_block(b, levels, best.scale, best.offset, now);
    // The errors of a block are linear in what is written: of the integers, and of ones, alone.
    F by_scale[32], by_offset[32];
    for (int j = 0; j < b.n; ++j) by_scale[j] = value_of(levels, now.level[j]), by_offset[j] = splat(1.f);
    F ss = F{}, so = F{}, oo = F{}, se = F{}, oe = F{};
    for (int j = 0; j < b.n; ++j) {
        const float* row = b.factor + 32 * j;
        for (int k = j + 1; k < b.n; ++k) {
            by_scale[k] -= by_scale[j] * row[k];
            if (levels.has_minimum) by_offset[k] -= by_offset[j] * row[k];
        }
        ss += b.gain[j] * (by_scale[j] * by_scale[j]);
        se += b.gain[j] * (by_scale[j] * now.error[j]);
        so += b.gain[j] * (by_scale[j] * by_offset[j]);
        oo += b.gain[j] * (by_offset[j] * by_offset[j]);
        oe += b.gain[j] * (by_offset[j] * now.error[j]);
    }
    F scale = best.scale + select(ss > 0.f, se / ss, F{}), offset = best.offset;
    if (levels.has_minimum) {
        const F determinant = ss * oo - so * so;
        const I sound = determinant > 1e-6f * (ss * oo);
        scale = best.scale + select(sound, (oo * se - so * oe) / determinant, F{});
        offset = as_half(best.offset + select(sound, (ss * oe - so * se) / determinant, F{}));
    }
    scale = as_half(scale);
    round_block(b, levels, scale, offset, trial);
    best.add(trial.loss, scale, offset);
}

// Scales of a symmetric type with an f16 scale: the largest weight near either end of the levels, and clipped.
Best symmetric_scale(const Block& b, const Levels& levels) {
    Trials trials(b, levels);
    const F largest = extreme_of(b.x, b.n).value;
    const Codebook* book = levels.book;
    const float low = book != nullptr ? book->value[0] : levels.low;
    const float high = book != nullptr ? book->value[book->n - 1] : levels.high;
    for (const float end : {low, high})
        for (int step = -4; step <= 11; ++step) trials.add(as_half(largest / (end * (1.f + kStep * (float)step))), F{});
    Best best = trials.best();
    refit(b, levels, best);
    return best;
}

// Scales of a symmetric type whose scale is a power of two: five around the one that reaches the largest weight.
Best power_of_two_scale(const Block& b, const Levels& levels) {
    Trials trials(b, levels);
    const F reaching = extreme_of(b.x, b.n).magnitude / levels.book->value[levels.book->n - 1];
    for (const float factor : {0.25f, 0.5f, 1.f, 2.f, 4.f}) trials.add(as_power_of_two(factor * reaching), F{});
    return trials.best();
}

// Scales and offsets of a type with both in f16: the range, shrunk at either end, then fitted.
Best ranged_scale(const Block& b, const Levels& levels) {
    Trials trials(b, levels);
    const Range range = range_of(b.x, b.n);
    const F spread = range.high - range.low;
    for (int below = 0; below < 6; ++below) {
        for (int above = 0; above < 6; ++above) {
            const F low = range.low + spread * (kStep * (float)(below - 1));
            const F high = range.high - spread * (kStep * (float)(above - 1));
            trials.add(as_half((high - low) / levels.high), as_half(low));
        }
    }
    Best best = trials.best();
    // With the second pass the fit takes the divergence of tiny.en's q4_1 from 0.61 to 0.58 of importance's.
    for (int round = 0; round < 2; ++round) refit(b, levels, best);
    return best;
}

// What the integers of a super-block's scales and minimums are multiplied by.
struct Units {
    F scale, minimum;
};

Best block_scale(const Block& b, const Levels& levels) {
    if (levels.has_minimum) return ranged_scale(b, levels);
    return levels.scale_as == ScaleAs::kPowerOfTwo ? power_of_two_scale(b, levels) : symmetric_scale(b, levels);
}

// A block of a group, the factor's part inside it copied: candidates read that many times.
Block block_of(const Rows& rows, int64_t begin, int n, float* factor) {
    const int64_t panel = begin / kPanel * kPanel;
    const Tiled inside(rows.job.prepared.inside + panel * kPanel, kPanel);
    for (int j = 0; j < n; ++j)
        for (int k = 0; k < n; k += kTile)
            std::memcpy(factor + 32 * j + k, inside.at(begin - panel + j, begin - panel + k), kTile * sizeof(float));
    return {rows.x + begin, factor, rows.job.prepared.gain + begin, n};
}

// Choose a super-block's units from its weights as they are when the feedback reaches it.
Units units_of(const Rows& rows, int64_t begin, const TypeRow& type) {
    const Levels& levels = type.levels;
    const int n_subs = type.subs.n, size = sub_size(type);
    F scales[16], minimums[16], sums[16], w[32];
    float factor[32 * 32];
    for (int j = 0; j < n_subs; ++j) {
        const Block b = block_of(rows, begin + j * size, size, factor);
        for (int i = 0; i < size; ++i) w[i] = splat(b.gain[i]);
        sums[j] = F{};
        for (int i = 0; i < size; ++i) sums[j] += w[i];
        if (levels.has_minimum) {
            const ScaleMin found = search_scale_min(b.x, w, size, min_search(levels));
            scales[j] = found.scale;
            minimums[j] = found.minimum;
        } else if (levels.book != nullptr) {
            scales[j] = symmetric_scale(b, levels).scale;
        } else {
            scales[j] = search_scale(b.x, w, size, -(int)levels.low).scale;
        }
    }
    if (levels.has_minimum) {
        I integers[16];
        const F scale = search_positive(scales, sums, n_subs, (int)type.subs.scale_high, integers);
        const F minimum = search_positive(minimums, sums, n_subs, (int)type.subs.scale_high, integers);
        return {as_half(scale), as_half(minimum)};
    }
    return {as_half(extreme_of(scales, n_subs).value / type.subs.scale_low), F{}};
}

// The integers of one sub-block's scale and minimum: those around the fit that lose least under feedback.
Best sub_scale(const Block& b, const TypeRow& type, Units units, F* integers) {
    const Levels& levels = type.levels;
    const SubBlocks& s = type.subs;
    F w[32];
    for (int i = 0; i < b.n; ++i) w[i] = splat(b.gain[i]);
    const F scale_inverse = select(units.scale != 0.f, 1.f / units.scale, F{});
    const F minimum_inverse = select(units.minimum != 0.f, 1.f / units.minimum, F{});
    F fit, minimum_fit = F{};
    if (levels.has_minimum) {
        const ScaleMin found = search_scale_min(b.x, w, b.n, min_search(levels));
        fit = found.scale * scale_inverse;
        minimum_fit = found.minimum * minimum_inverse;
    } else if (levels.book != nullptr) {
        fit = symmetric_scale(b, levels).scale * scale_inverse;
    } else {
        fit = search_scale(b.x, w, b.n, -(int)levels.low).scale * scale_inverse;
    }
    Trials trials(b, levels);
    // Scales of eight bits lie closer together: as far around the fit there are more of them.
    const int reach = s.scale_high > 100.f ? 6 : 2, minimum_reach = levels.has_minimum ? 2 : 0;
    for (int step = -reach; step <= reach; ++step) {
        const F scale_l = nearest_float(fit + (float)step, s.scale_low, s.scale_high);
        for (int minimum_step = -minimum_reach; minimum_step <= minimum_reach; ++minimum_step) {
            const F minimum_l = nearest_float(minimum_fit + (float)minimum_step, 0.f, s.scale_high);
            trials.add(units.scale * scale_l, -(units.minimum * minimum_l), scale_l, minimum_l);
        }
    }
    Best best = trials.best();
    integers[0] = best.scale;
    integers[1] = best.offset;
    best.scale = units.scale * integers[0];
    best.offset = -(units.minimum * integers[1]);
    return best;
}

// Choose a block's scale and offset and round it: its errors, what that added to its weights, and -gain times the
// errors.
void round_columns(const Rows& rows, const TypeRow& type, int64_t begin, F* errors, F* added) {
    const int size = sub_size(type);
    const int64_t block = begin / size, unit = begin / type.block_size;
    const bool is_super = type.subs.n != 0;
    if (is_super && begin % type.block_size == 0) {
        const Units units = units_of(rows, begin, type);
        rows.unit[unit] = units.scale;
        rows.minimum_unit[unit] = units.minimum;
    }
    float factor[32 * 32];
    const Block b = block_of(rows, begin, size, factor);
    Best best;
    if (is_super) {
        F integers[2];
        best = sub_scale(b, type, {rows.unit[unit], rows.minimum_unit[unit]}, integers);
        rows.integer[block] = integers[0];
        rows.minimum[block] = integers[1];
    } else {
        best = block_scale(b, type.levels);
        rows.unit[unit] = best.scale;
        rows.minimum_unit[unit] = best.offset;
    }
    rows.scale[block] = best.scale;
    rows.offset[block] = best.offset;
    Rounded rounded;
    round_block(b, type.levels, best.scale, best.offset, rounded);
    for (int j = 0; j < size; ++j) {
        rows.level[begin + j] = rounded.level[j];
        errors[j] = rounded.error[j];
        added[j] = best.scale * value_of(type.levels, rounded.level[j]) + best.offset - rows.weights[begin + j];
        rows.x[begin + j] = -(b.gain[j] * rounded.error[j]);
    }
}

// What a panel's columns will be where those between lose nothing, from what they are after those before the panel.
void expect(const Pair& pair, const Tiled& inside, int64_t start, Columns near) {
    for (const int side : {0, 1}) {
        const Rows& rows = pair[side];
        for (int64_t j = 0; j < near.size(); ++j) rows.moved[j] = rows.weights[start + j] - rows.x[start + j];
    }
    const int64_t base = start - near.begin;
    for (int64_t c = near.begin; c < near.end; c += kSide)
        take_off(inside, {near.begin, c + kSide}, pair.one.moved, pair.two.moved, {c, c + kSide}, pair.one.x + base,
                 pair.two.x + base);
}

// The first pass over all columns of some rows.
void pass(const std::vector<Pair>& pairs, const TypeRow& type, const Prepared& prepared, int64_t n_columns) {
    const int size = sub_size(type);
    const int64_t width = type.block_size > kNarrow ? kPanel : kNarrow;
    const Tiled triangle(prepared.triangle, n_columns);
    for (int64_t start = 0; start < n_columns; start += width) {
        const Columns panel{start, start + width < n_columns ? start + width : n_columns};
        const int64_t base = start / kPanel * kPanel;
        const Tiled inside(prepared.inside + base * kPanel, kPanel);
        for (const Pair& pair : pairs) {
            if (start != 0) expect(pair, inside, start, {start - base, panel.end - base});
            for (int64_t begin = start; begin < panel.end; begin += size) {
                F one[32], two[32];
                round_columns(pair.one, type, begin, one, pair.one.moved + (begin - start));
                round_columns(pair.two, type, begin, two, pair.two.moved + (begin - start));
                const Columns here{begin - base, begin - base + size};
                take_off(inside, here, one, two, {here.end, panel.end - base}, pair.one.x + base, pair.two.x + base);
            }
        }
        push_all(pairs, triangle, panel, {panel.end, n_columns});
    }
}

// Vectors of a group of rows. Not a unique_ptr: that would drop their alignment.
struct Vectors {
    F* data;
    explicit Vectors(int64_t n) : data(new F[n]{}) {}
    ~Vectors() { delete[] data; }
    Vectors(const Vectors&) = delete;
    Vectors& operator=(const Vectors&) = delete;
};

void put(float* to, int64_t row, int64_t width, const F* values, int n_lanes) {
    for (int64_t at = 0; at < width; ++at)
        for (int lane = 0; lane < n_lanes; ++lane) to[(row + lane) * width + at] = values[at][lane];
}

// Take the weights of a group, a row a lane.
void load_weights(const Rows& rows) {
    const FeedbackJob& job = rows.job;
    for (int64_t c = 0; c < job.n_columns; c += kLanes) {
        F* to = rows.weights + c;
        for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t row = rows.row + lane < job.n_rows ? rows.row + lane : job.n_rows - 1;
            to[lane] = load_floats(job.weights + row * job.n_columns + c);
        }
        transpose(to);
        for (int k = 0; k < kLanes; ++k) rows.x[c + k] = to[k];
    }
}

// The memory of as many rows as share a panel of the matrices: few enough to stay near, and then so many that the
// matrices, which do not, are read seldom.
constexpr int kRowsTogether = 128, kPairs = kRowsTogether / (2 * kLanes);

// Write out what was chosen for a group.
void write(const Rows& rows, const TypeRow& type) {
    const FeedbackJob& job = rows.job;
    const int64_t n = job.n_columns, n_units = n / type.block_size, n_blocks = n / sub_size(type), row = rows.row;
    if (row >= job.n_rows) return;
    const int n_lanes = (int)(job.n_rows - row < kLanes ? job.n_rows - row : kLanes);
    for (int64_t c = 0; c < n; ++c)
        for (int lane = 0; lane < n_lanes; ++lane)
            job.levels[(row + lane) * n + c] = stored_integer(type.levels, rows.level[c][lane]);
    put(job.units, row, n_units, rows.unit, n_lanes);
    put(job.minimum_units, row, n_units, rows.minimum_unit, n_lanes);
    if (type.subs.n != 0) {
        put(job.scale_integers, row, n_blocks, rows.integer, n_lanes);
        put(job.minimum_integers, row, n_blocks, rows.minimum, n_lanes);
    }
}

}  // namespace

Outcome feedback(const FeedbackJob& job) {
    const TypeRow& type = row_of(job.type);
    if (!has_feedback(type)) return Outcome::kNoKernel;
    const int64_t n = job.n_columns, n_units = n / type.block_size, n_blocks = n / sub_size(type);
    const int64_t n_vectors = 3 * n + kPanel + 4 * n_blocks + 2 * n_units;
    const int64_t n_pairs = (job.n_rows + 2 * kLanes - 1) / (2 * kLanes);
    const Vectors vectors(2 * (n_pairs < kPairs ? n_pairs : kPairs) * n_vectors);
    for (int64_t first = 0; first < n_pairs; first += kPairs) {
        F* next = vectors.data;
        const auto take = [&](int64_t size) { return std::exchange(next, next + size); };
        const auto group = [&](int64_t number) {
            return Rows{job,           number * kLanes, take(n),        take(n),        take(n),
                        take(kPanel),  take(n_blocks),  take(n_blocks), take(n_blocks), take(n_blocks),
                        take(n_units), take(n_units)};
        };
        std::vector<Pair> pairs;
        for (int64_t pair = first; pair < n_pairs && pair < first + kPairs; ++pair)
            pairs.push_back({group(2 * pair), group(2 * pair + 1)});
        for (const Pair& pair : pairs) load_weights(pair.one), load_weights(pair.two);
        pass(pairs, type, job.prepared, n);
        if (job.n_sweeps > 0) improve(pairs, type, job.n_sweeps);
        for (const Pair& pair : pairs) write(pair.one, type), write(pair.two, type);
    }
    return Outcome::kDone;
}

}  // namespace whisq::WHISQ_ISA
