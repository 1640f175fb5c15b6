// The second pass of rounding with feedback: coordinate descent on what the first pass chose.
//
// The first pass corrects later columns for the errors of earlier ones and never looks back. Here every integer, and
// then the scale (and offset) of every block, is set to the best with all others as they are, block by block, a few
// times over (the loss and its coordinates: Behdin et al. 2023, "QuantEase", arXiv 2309.01885). The loss never rises.
#include "feedback.h"

namespace whisq::WHISQ_ISA {
namespace {

// Better integers and scales of a block with all others as they are. The loss of a row is d H d, with d what rounding
// took from its weights; g = H d. A change c of the decoded block changes the loss by c H c - 2 g c.
struct Improver {
    const Rows& rows;
    const Levels levels;
    const SuperLayout* super;  // null for blocks of 32
    bool ranged;
    int n;

    F g[32], change[32];

    const float* moment(int64_t begin, int j) const {
        return rows.job.moment + (begin + j) * rows.job.n_columns + begin;
    }

    // Every integer in turn: the nearest to where the loss is least.
    void integers(int64_t block) {
        const int64_t begin = block * n;
        const F scale = rows.scale[block];
        for (int j = 0; j < n; ++j) {
            const float* h = moment(begin, j);
            F* level = rows.level + begin + j;
            F next;
            if (levels.is_iq4) {
                const F up = minimum(*level + 1.f, splat(15.f)), down = maximum(*level - 1.f, F{});
                const F now = iq4_value(*level);
                const F a = scale * (iq4_value(up) - now), b = scale * (iq4_value(down) - now);
                const F a_loss = a * (h[j] * a - 2.f * g[j]), b_loss = b * (h[j] * b - 2.f * g[j]);
                next = select(a_loss < b_loss, select(a_loss < 0.f, up, *level), select(b_loss < 0.f, down, *level));
            } else {
                const F step = scale * h[j];
                const F wish = select(step != 0.f, g[j] / step, F{});
                next = nearest_float(*level + nearest_float(wish, -64.f, 64.f), levels.low, levels.high);
            }
            const F delta = scale * (value_of(levels, next) - value_of(levels, *level));
            if (!any(delta != 0.f)) continue;
            *level = next;
            change[j] += delta;
            for (int k = 0; k < n; ++k) g[k] -= h[k] * delta;
        }
    }

    // Scale and offset by least squares, as the type can write them; kept where the loss falls.
    void scales(int64_t block) {
        const int64_t begin = block * n;
        F l[32], hl[32];
        float ho[32] = {};
        for (int j = 0; j < n; ++j) l[j] = value_of(levels, rows.level[begin + j]), hl[j] = F{};
        for (int j = 0; j < n; ++j) {
            const float* h = moment(begin, j);
            for (int k = 0; k < n; ++k) hl[k] += h[k] * l[j];
            for (int k = 0; k < n; ++k) ho[k] += h[k];
        }
        F ll = F{}, lo = F{}, lg = F{}, og = F{};
        float oo = 0;
        for (int j = 0; j < n; ++j) {
            ll += l[j] * hl[j];
            lg += l[j] * g[j];
            lo += l[j] * ho[j];
            oo += ho[j];
            og += g[j];
        }
        F ds = select(ll > 0.f, lg / ll, F{}), dm = F{};
        if (ranged) {
            const F determinant = ll * oo - lo * lo;
            const I sound = determinant > 1e-6f * (ll * oo);
            ds = select(sound, (oo * lg - lo * og) / determinant, ds);
            dm = select(sound, (ll * og - lo * lg) / determinant, dm);
        }
        const F scale = rows.scale[block], offset = rows.offset[block];
        F next_scale, next_offset = offset, integer = F{}, minimum_integer = F{};
        if (super == nullptr) {
            next_scale = as_half(scale + ds);
            if (ranged) next_offset = as_half(offset + dm);
        } else {
            const F unit = rows.unit[block / super->n_sub], minimum_unit = rows.minimum_unit[block / super->n_sub];
            integer = select(unit != 0.f, (scale + ds) / unit, F{});
            integer = nearest_float(integer, (float)super->scale_low, (float)super->scale_high);
            next_scale = unit * integer;
            if (ranged) {
                minimum_integer = select(minimum_unit != 0.f, -(offset + dm) / minimum_unit, F{});
                minimum_integer = nearest_float(minimum_integer, 0.f, (float)super->scale_high);
                next_offset = -(minimum_unit * minimum_integer);
            }
        }
        ds = next_scale - scale;
        dm = next_offset - offset;
        const F loss = ds * (ds * ll + 2.f * (dm * lo - lg)) + dm * (dm * oo - 2.f * og);
        const I better = loss < 0.f;
        if (!any(better)) return;
        ds = select(better, ds, F{});
        dm = select(better, dm, F{});
        rows.scale[block] = select(better, next_scale, scale);
        rows.offset[block] = select(better, next_offset, offset);
        if (super == nullptr) {
            rows.unit[block] = rows.scale[block];
            rows.minimum_unit[block] = rows.offset[block];
        } else {
            rows.integer[block] = select(better, integer, rows.integer[block]);
            rows.minimum[block] = select(better, minimum_integer, rows.minimum[block]);
        }
        for (int j = 0; j < n; ++j) {
            change[j] += ds * l[j] + dm;
            g[j] -= ds * hl[j] + dm * ho[j];
        }
    }

    void sweep(int64_t block) {
        const int64_t begin = block * n;
        for (int j = 0; j < n; ++j) g[j] = rows.gradient[begin + j], change[j] = F{};
        integers(block);
        scales(block);
        integers(block);
        rows.push(rows.gradient, rows.job.moment, begin, change, n, 0);
    }
};

}  // namespace

void improve(const Rows& rows, int64_t row, int n_sweeps) {
    const FeedbackJob& job = rows.job;
    const int type = job.type;
    const bool is_super = block_size(type) == 256;
    const SuperLayout layout = super_layout(type);
    const bool ranged = is_super ? layout.has_minimum : type == kQ4_1 || type == kQ5_1;
    Improver improver{rows, levels_of(type), is_super ? &layout : nullptr, ranged, is_super ? layout.sub : 32, {}, {}};
    const int n = improver.n;
    const int64_t n_blocks = job.n_columns / n;
    for (int64_t c = 0; c < job.n_columns; ++c) rows.gradient[c] = F{};
    F minus_d[32];
    for (int64_t block = 0; block < n_blocks; ++block) {
        for (int j = 0; j < n; ++j) {
            const int64_t c = block * n + j;
            F w;
            for (int lane = 0; lane < kLanes; ++lane)
                w[lane] = job.weights[(row + lane < job.n_rows ? row + lane : row) * job.n_columns + c];
            minus_d[j] = rows.scale[block] * value_of(improver.levels, rows.level[c]) + rows.offset[block] - w;
        }
        rows.push(rows.gradient, job.moment, block * n, minus_d, n, 0);
    }
    for (int sweep = 0; sweep < n_sweeps; ++sweep)
        for (int64_t block = 0; block < n_blocks; ++block) improver.sweep(block);
}

}  // namespace whisq::WHISQ_ISA
