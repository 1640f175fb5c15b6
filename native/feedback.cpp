// Rounding with error feedback: columns in order, each column's rounding error pushed onto the columns that are not
// yet rounded (GPTQ, Frantar et al. 2022, arXiv 2210.17323, in the form with one triangular factor). What that chose is
// then improved (improve.cpp).
//
// A lane is a row of the matrix: rows do not depend on each other. `factor` is the upper Cholesky factor U of the
// damped inverse second moment, H^-1 = U^T U, with every row divided by its diagonal; `gain` is 1 / diagonal^2, so that
// an error e of column j costs gain[j] * e^2 after the best correction by later columns. The scale of a block is
// chosen when the feedback reaches it, by running the feedback through the block for every candidate.
#include "feedback.h"

#include "families.h"
#include "search.h"

namespace whisq::WHISQ_ISA {
namespace {

// What rounding a block gave.
struct Rounded {
    F loss;
    F level[32];  // l, or for iq4 the index
    F error[32];
};

F iq4_index(F x) {
    F index = F{};
    for (int k = 0; k < 15; ++k)
        index = select(x < (float)(kIq4Values[k] + kIq4Values[k + 1]) / 2, index, splat((float)(k + 1)));
    return index;
}

void round_block(const Block& b, const Levels& levels, F scale, F offset, Rounded& result) {
    const F inverse = select(scale != 0.f, 1.f / scale, F{});
    F x[32];
    for (int j = 0; j < b.n; ++j) x[j] = b.x[j];
    result.loss = F{};
    for (int j = 0; j < b.n; ++j) {
        const F scaled = (x[j] - offset) * inverse;
        F decoded;
        if (levels.is_iq4) {
            result.level[j] = iq4_index(scaled);
            decoded = scale * iq4_value(result.level[j]);
        } else {
            result.level[j] = nearest_float(scaled, levels.low, levels.high);
            decoded = scale * result.level[j] + offset;
        }
        const F error = x[j] - decoded;
        result.error[j] = error;
        result.loss += b.gain[j] * (error * error);
        const float* row = b.factor + j * b.stride;
        for (int k = j + 1; k < b.n; ++k) x[k] -= error * row[k];
    }
}

// The best of the candidates seen so far, lane by lane.
struct Best {
    F loss, scale, offset;
    void start() { loss = splat(3.4e38f), scale = offset = F{}; }
    void see(F candidate_loss, F candidate_scale, F candidate_offset) {
        const I better = candidate_loss < loss;
        loss = select(better, candidate_loss, loss);
        scale = select(better, candidate_scale, scale);
        offset = select(better, candidate_offset, offset);
    }
};

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

// Scales of a symmetric type with an f16 scale: the largest weight near either end of the levels, and clipped.
Best symmetric_scale(const Block& b, const Levels& levels) {
    Best best;
    best.start();
    const F largest = extreme_of(b.x, b.n).value;
    const float end = levels.is_iq4 ? 127.f : -levels.low;
    Rounded trial;
    for (int side = 0; side < 2; ++side) {
        const float top = side == 0 ? end : -(levels.is_iq4 ? 113.f : levels.high);
        for (int step = -4; step <= 11; ++step) {
            const F scale = as_half(-largest / (top * (1.f + 0.03f * (float)step)));
            round_block(b, levels, scale, F{}, trial);
            best.see(trial.loss, scale, F{});
        }
    }
    return best;
}

// Fit scale and offset by least squares to the integers that the best so far gives, as the feedback weighs errors.
void refit(const Block& b, const Levels& levels, Best& best) {
    Rounded now, trial;
    round_block(b, levels, best.scale, best.offset, now);
    // The errors of a block are linear in what is written: of the integers, and of ones, alone.
    F by_scale[32], by_offset[32];
    for (int j = 0; j < b.n; ++j) by_scale[j] = now.level[j], by_offset[j] = splat(1.f);
    F ss = F{}, so = F{}, oo = F{}, se = F{}, oe = F{};
    for (int j = 0; j < b.n; ++j) {
        const float* row = b.factor + j * b.stride;
        for (int k = j + 1; k < b.n; ++k) {
            by_scale[k] -= by_scale[j] * row[k];
            by_offset[k] -= by_offset[j] * row[k];
        }
        ss += b.gain[j] * (by_scale[j] * by_scale[j]);
        so += b.gain[j] * (by_scale[j] * by_offset[j]);
        oo += b.gain[j] * (by_offset[j] * by_offset[j]);
        se += b.gain[j] * (by_scale[j] * now.error[j]);
        oe += b.gain[j] * (by_offset[j] * now.error[j]);
    }
    const F determinant = ss * oo - so * so;
    const I sound = determinant > 1e-6f * (ss * oo);
    const F scale = as_half(best.scale + select(sound, (oo * se - so * oe) / determinant, F{}));
    const F offset = as_half(best.offset + select(sound, (ss * oe - so * se) / determinant, F{}));
    round_block(b, levels, scale, offset, trial);
    best.see(trial.loss, scale, offset);
}

// Scales and offsets of a type with both in f16: the range, shrunk at either end, then fitted.
Best ranged_scale(const Block& b, const Levels& levels) {
    Best best;
    best.start();
    const Range range = range_of(b.x, b.n);
    const F spread = range.high - range.low;
    Rounded trial;
    for (int below = 0; below < 6; ++below) {
        for (int above = 0; above < 6; ++above) {
            const F low = range.low + spread * (0.03f * (float)(below - 1));
            const F high = range.high - spread * (0.03f * (float)(above - 1));
            const F scale = as_half((high - low) / levels.high), offset = as_half(low);
            round_block(b, levels, scale, offset, trial);
            best.see(trial.loss, scale, offset);
        }
    }
    for (int round = 0; round < 2; ++round) refit(b, levels, best);
    return best;
}

// A super-block's plan: its units, and the integers around which each sub-block's scale is sought.
struct Units {
    F scale, minimum;
};

void plain_blocks(const Rows& rows, int type) {
    const Levels levels = levels_of(type);
    const bool ranged = type == kQ4_1 || type == kQ5_1;
    const int64_t n_blocks = rows.job.n_columns / 32;
    Rounded rounded;
    for (int64_t block = 0; block < n_blocks; ++block) {
        const Block b = rows.block(32 * block, 32);
        const Best best = ranged ? ranged_scale(b, levels) : symmetric_scale(b, levels);
        round_block(b, levels, best.scale, best.offset, rounded);
        rows.scale[block] = rows.unit[block] = best.scale;
        rows.offset[block] = rows.minimum_unit[block] = best.offset;
        for (int j = 0; j < 32; ++j) rows.level[32 * block + j] = rounded.level[j];
        rows.push(rows.x, rows.job.factor, 32 * block, rounded.error, 32, 32 * block + 32);
    }
}

// Choose a super-block's units from its weights as they are when the feedback reaches it.
Units units_of(const Rows& rows, int64_t begin, const SuperLayout& s, const Levels& levels) {
    F scales[16], minimums[16], sums[16], w[32];
    for (int j = 0; j < s.n_sub; ++j) {
        const Block b = rows.block(begin + j * s.sub, s.sub);
        for (int i = 0; i < s.sub; ++i) w[i] = splat(b.gain[i]);
        sums[j] = F{};
        for (int i = 0; i < s.sub; ++i) sums[j] += w[i];
        if (s.has_minimum) {
            const ScaleMin found = search_scale_min(b.x, w, s.sub, {(int)levels.high, -0.9f, 0.05f, 36});
            scales[j] = found.scale;
            minimums[j] = found.minimum;
        } else if (levels.is_iq4) {
            scales[j] = symmetric_scale(b, levels).scale;
        } else {
            scales[j] = search_scale(b.x, w, s.sub, -(int)levels.low).scale;
        }
    }
    I integers[16];
    if (s.has_minimum) {
        const F scale = search_positive(scales, sums, s.n_sub, s.scale_high, integers);
        const F minimum = search_positive(minimums, sums, s.n_sub, s.scale_high, integers);
        return {as_half(scale), as_half(minimum)};
    }
    const F largest = extreme_of(scales, s.n_sub).value;
    return {as_half(largest / (float)s.scale_low), F{}};
}

// The integers of one sub-block's scale and minimum: those around the fit that lose least under feedback.
Best sub_scale(const Block& b, const SuperLayout& s, const Levels& levels, Units units, F* integers) {
    F w[32];
    for (int i = 0; i < b.n; ++i) w[i] = splat(b.gain[i]);
    const F scale_inverse = select(units.scale != 0.f, 1.f / units.scale, F{});
    const F minimum_inverse = select(units.minimum != 0.f, 1.f / units.minimum, F{});
    F fit, minimum_fit = F{};
    if (s.has_minimum) {
        const ScaleMin found = search_scale_min(b.x, w, b.n, {(int)levels.high, -0.9f, 0.05f, 36});
        fit = found.scale * scale_inverse;
        minimum_fit = found.minimum * minimum_inverse;
    } else {
        fit = (levels.is_iq4 ? symmetric_scale(b, levels).scale : search_scale(b.x, w, b.n, -(int)levels.low).scale) *
              scale_inverse;
    }
    Best best;
    best.start();
    Rounded trial;
    const int reach = s.has_minimum ? 2 : s.scale_high == 127 ? 6 : 2;
    for (int step = -reach; step <= reach; ++step) {
        const F scale_l = nearest_float(fit + (float)step, (float)s.scale_low, (float)s.scale_high);
        for (int minimum_step = s.has_minimum ? -2 : 0; minimum_step <= (s.has_minimum ? 2 : 0); ++minimum_step) {
            const F minimum_l = nearest_float(minimum_fit + (float)minimum_step, 0.f, (float)s.scale_high);
            round_block(b, levels, units.scale * scale_l, -(units.minimum * minimum_l), trial);
            best.see(trial.loss, scale_l, minimum_l);
        }
    }
    integers[0] = best.scale;
    integers[1] = best.offset;
    best.scale = units.scale * integers[0];
    best.offset = -(units.minimum * integers[1]);
    return best;
}

void super_blocks(const Rows& rows, int type) {
    const FeedbackJob& job = rows.job;
    const Levels levels = levels_of(type);
    const SuperLayout s = super_layout(type);
    const int64_t n_super = job.n_columns / 256;
    Rounded rounded;
    for (int64_t super = 0; super < n_super; ++super) {
        const Units units = units_of(rows, 256 * super, s, levels);
        rows.unit[super] = units.scale;
        rows.minimum_unit[super] = units.minimum;
        for (int j = 0; j < s.n_sub; ++j) {
            const int64_t begin = 256 * super + j * s.sub, block = super * s.n_sub + j;
            const Block b = rows.block(begin, s.sub);
            F integers[2];
            const Best best = sub_scale(b, s, levels, units, integers);
            round_block(b, levels, best.scale, best.offset, rounded);
            rows.scale[block] = best.scale;
            rows.offset[block] = best.offset;
            rows.integer[block] = integers[0];
            rows.minimum[block] = integers[1];
            for (int i = 0; i < s.sub; ++i) rows.level[begin + i] = rounded.level[i];
            rows.push(rows.x, job.factor, begin, rounded.error, s.sub, begin + s.sub);
        }
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

}  // namespace

bool feedback(const FeedbackJob& job) {
    const int size = block_size(job.type);
    if (size < 32) return false;
    const bool is_super = size == 256;
    const int64_t n = job.n_columns, n_units = n / size;
    const int64_t n_blocks = is_super ? n_units * super_layout(job.type).n_sub : n_units;
    const Vectors vectors(3 * n + 4 * n_blocks + 2 * n_units);
    F* x = vectors.data;
    F* scale = x + 3 * n;
    F* unit = scale + 4 * n_blocks;
    const Rows rows{
        job,      x, x + n, scale, scale + n_blocks, scale + 2 * n_blocks, scale + 3 * n_blocks, unit, unit + n_units,
        x + 2 * n};
    const Levels levels = levels_of(job.type);
    const float shift = levels.is_iq4 ? 0.f : -levels.low;
    for (int64_t row = 0; row < job.n_rows; row += kLanes) {
        const int n_lanes = (int)(job.n_rows - row < kLanes ? job.n_rows - row : kLanes);
        for (int64_t c = 0; c < n; ++c)
            for (int lane = 0; lane < kLanes; ++lane)
                x[c][lane] = job.weights[(row + (lane < n_lanes ? lane : 0)) * n + c];
        if (is_super)
            super_blocks(rows, job.type);
        else
            plain_blocks(rows, job.type);
        if (job.n_sweeps > 0) improve(rows, row, job.n_sweeps);
        for (int64_t c = 0; c < n; ++c)
            for (int lane = 0; lane < n_lanes; ++lane)
                job.levels[(row + lane) * n + c] = (int8_t)(int)(rows.level[c][lane] + shift);
        put(job.units, row, n_units, rows.unit, n_lanes);
        put(job.minimum_units, row, n_units, rows.minimum_unit, n_lanes);
        if (is_super) {
            put(job.scale_integers, row, n_blocks, rows.integer, n_lanes);
            put(job.minimum_integers, row, n_blocks, rows.minimum, n_lanes);
        }
    }
    return true;
}

}  // namespace whisq::WHISQ_ISA
