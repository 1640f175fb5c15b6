// Rounding with error feedback: columns in order, each column's rounding error pushed onto the columns that are not
// yet rounded (GPTQ, Frantar et al. 2022, arXiv 2210.17323, in the form with one triangular factor).
//
// A lane is a row of the matrix: rows do not depend on each other. `factor` is the upper Cholesky factor U of the
// damped inverse second moment, H^-1 = U^T U, with every row divided by its diagonal; `gain` is 1 / diagonal^2, so that
// an error e of column j costs gain[j] * e^2 after the best correction by later columns. The scale of a block is
// chosen when the feedback reaches it, by running the feedback through the block for every candidate.
#include "families.h"
#include "search.h"

namespace whisq::WHISQ_ISA {
namespace {

// How a type writes a weight: scale * l + offset, l in [low, high]; or scale * value[l] of iq4's table.
struct Levels {
    float low, high;
    bool is_iq4;
};

constexpr float kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// One sub-block under feedback: its columns' weights, and the part of the factor inside it.
struct Block {
    const F* x;           // [n] weights, already corrected by earlier columns
    const float* factor;  // row j, column k at factor[j * stride + k]
    int64_t stride;
    const float* gain;
    int n;
};

struct Rounded {
    F loss;
    F level[32];  // l, or for iq4 the index
    F error[32];
};

F iq4_index(F x) {
    F index = F{};
    for (int k = 0; k < 15; ++k) index = select(x < (kIq4[k] + kIq4[k + 1]) / 2, index, splat((float)(k + 1)));
    return index;
}

F iq4_value(F index) {
    F value = splat(kIq4[0]);
    for (int k = 1; k < 16; ++k) value = select(index < (float)k, value, splat(kIq4[k]));
    return value;
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

F as_half(F value) {
    uint16_t halves[kLanes];
    return through_half(value, halves);
}

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

// Scales and offsets of a type with both in f16: the range, shrunk at either end.
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
    return best;
}

// A super-block's plan: its units, and the integers around which each sub-block's scale is sought.
struct Units {
    F scale, minimum;
};

// Where the outputs of a group of rows go; lanes beyond the last row are not written.
struct Sink {
    const FeedbackJob& job;
    int64_t row;
    int n_lanes;

    void level(int64_t column, F value, int shift) const {
        for (int lane = 0; lane < n_lanes; ++lane)
            job.levels[(row + lane) * job.n_columns + column] = (int8_t)((int)value[lane] + shift);
    }
    static void put(float* to, int64_t row, int64_t width, int64_t at, F value, int n_lanes) {
        for (int lane = 0; lane < n_lanes; ++lane) to[(row + lane) * width + at] = value[lane];
    }
};

struct Panel {
    const FeedbackJob& job;
    F* w;  // [n_columns] weights of a group of rows, corrected so far

    Block block(int64_t begin, int n) const {
        return {w + begin, job.factor + begin * job.n_columns + begin, job.n_columns, job.gain + begin, n};
    }

    // Push the errors of a finished block onto all later columns.
    void push(int64_t begin, const Rounded& r, int n) const {
        for (int64_t c = begin + n; c < job.n_columns; ++c) {
            F value = w[c];
            const float* column = job.factor + begin * job.n_columns + c;
            for (int j = 0; j < n; ++j) value -= r.error[j] * column[j * job.n_columns];
            w[c] = value;
        }
    }
};

Levels levels_of(int type) {
    switch (type) {
        case kQ4_0:
            return {-8, 7, false};
        case kQ5_0:
            return {-16, 15, false};
        case kQ8_0:
            return {-127, 127, false};
        case kQ4_1:
        case kQ4_K:
            return {0, 15, false};
        case kQ5_1:
        case kQ5_K:
            return {0, 31, false};
        case kQ2_K:
            return {0, 3, false};
        case kQ3_K:
            return {-4, 3, false};
        case kQ6_K:
            return {-32, 31, false};
        default:
            return {0, 15, true};
    }
}

void plain_blocks(const Panel& panel, const Sink& sink, int type) {
    const Levels levels = levels_of(type);
    const bool ranged = type == kQ4_1 || type == kQ5_1;
    const int64_t n_blocks = panel.job.n_columns / 32;
    Rounded rounded;
    for (int64_t block = 0; block < n_blocks; ++block) {
        const Block b = panel.block(32 * block, 32);
        const Best best = ranged ? ranged_scale(b, levels) : symmetric_scale(b, levels);
        round_block(b, levels, best.scale, best.offset, rounded);
        Sink::put(panel.job.units, sink.row, n_blocks, block, best.scale, sink.n_lanes);
        Sink::put(panel.job.minimum_units, sink.row, n_blocks, block, best.offset, sink.n_lanes);
        for (int j = 0; j < 32; ++j) sink.level(32 * block + j, rounded.level[j], levels.is_iq4 ? 0 : -(int)levels.low);
        panel.push(32 * block, rounded, 32);
    }
}

// What a super-block type does with its sub-blocks' scales.
struct SuperLayout {
    int n_sub, sub;             // sub-blocks, and weights in each
    int scale_low, scale_high;  // integers of a scale
    bool has_minimum;
};

SuperLayout super_layout(int type) {
    switch (type) {
        case kQ2_K:
            return {16, 16, 0, 15, true};
        case kQ3_K:
            return {16, 16, -32, 31, false};
        case kQ6_K:
            return {16, 16, -128, 127, false};
        case kIQ4_XS:
            return {8, 32, -32, 31, false};
        default:
            return {8, 32, 0, 63, true};
    }
}

// Choose a super-block's units from its weights as they are when the feedback reaches it.
Units units_of(const Panel& panel, int64_t begin, const SuperLayout& s, const Levels& levels) {
    F scales[16], minimums[16], sums[16], w[32];
    for (int j = 0; j < s.n_sub; ++j) {
        const Block b = panel.block(begin + j * s.sub, s.sub);
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

void super_blocks(const Panel& panel, const Sink& sink, int type) {
    const FeedbackJob& job = panel.job;
    const Levels levels = levels_of(type);
    const SuperLayout s = super_layout(type);
    const int64_t n_super = job.n_columns / 256, n_subs = n_super * s.n_sub;
    Rounded rounded;
    for (int64_t super = 0; super < n_super; ++super) {
        const Units units = units_of(panel, 256 * super, s, levels);
        Sink::put(job.units, sink.row, n_super, super, units.scale, sink.n_lanes);
        Sink::put(job.minimum_units, sink.row, n_super, super, units.minimum, sink.n_lanes);
        for (int j = 0; j < s.n_sub; ++j) {
            const int64_t begin = 256 * super + j * s.sub;
            const Block b = panel.block(begin, s.sub);
            F integers[2];
            const Best best = sub_scale(b, s, levels, units, integers);
            round_block(b, levels, best.scale, best.offset, rounded);
            Sink::put(job.scale_integers, sink.row, n_subs, super * s.n_sub + j, integers[0], sink.n_lanes);
            Sink::put(job.minimum_integers, sink.row, n_subs, super * s.n_sub + j, integers[1], sink.n_lanes);
            for (int i = 0; i < s.sub; ++i)
                sink.level(begin + i, rounded.level[i], levels.is_iq4 ? 0 : -(int)levels.low);
            panel.push(begin, rounded, s.sub);
        }
    }
}

// A group of rows, column by column. Not a unique_ptr: that would drop the vectors' alignment.
struct Columns {
    F* data;
    explicit Columns(int64_t n) : data(new F[n]) {}
    ~Columns() { delete[] data; }
    Columns(const Columns&) = delete;
    Columns& operator=(const Columns&) = delete;
};

}  // namespace

bool feedback(const FeedbackJob& job) {
    const int size = block_size(job.type);
    if (size < 32) return false;
    const Columns columns(job.n_columns);
    for (int64_t row = 0; row < job.n_rows; row += kLanes) {
        const int n_lanes = (int)(job.n_rows - row < kLanes ? job.n_rows - row : kLanes);
        for (int64_t c = 0; c < job.n_columns; ++c)
            for (int lane = 0; lane < kLanes; ++lane)
                columns.data[c][lane] = job.weights[(row + (lane < n_lanes ? lane : 0)) * job.n_columns + c];
        const Panel panel{job, columns.data};
        const Sink sink{job, row, n_lanes};
        if (size == 32)
            plain_blocks(panel, sink, job.type);
        else
            super_blocks(panel, sink, job.type);
    }
    return true;
}

}  // namespace whisq::WHISQ_ISA
