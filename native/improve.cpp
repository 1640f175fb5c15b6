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
    const TypeRow& type;
    const Levels& levels;
    int n;  // weights of a block

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
            if (levels.book != nullptr) {
                const F up = minimum(*level + 1.f, splat(levels.high)), down = maximum(*level - 1.f, F{});
                const F now = value_of(levels, *level);
                const F a = scale * (value_of(levels, up) - now), b = scale * (value_of(levels, down) - now);
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

    // How the loss depends on a block's scale and offset: of l, and of ones, times the moment, the sums with both and
    // g.
    struct Fit {
        F l[32], hl[32];
        float ho[32];
        F ll, lo, lg, og;
        float oo;
    };

    void fit(int64_t begin, Fit& f) const {
        for (int j = 0; j < n; ++j) {
            f.l[j] = value_of(levels, rows.level[begin + j]);
            f.hl[j] = F{};
            f.ho[j] = 0;
        }
        for (int j = 0; j < n; ++j) {
            const float* h = moment(begin, j);
            for (int k = 0; k < n; ++k) f.hl[k] += h[k] * f.l[j];
            for (int k = 0; k < n; ++k) f.ho[k] += h[k];
        }
        f.ll = f.lo = f.lg = f.og = F{};
        f.oo = 0;
        for (int j = 0; j < n; ++j) {
            f.ll += f.l[j] * f.hl[j];
            f.lg += f.l[j] * g[j];
            f.lo += f.l[j] * f.ho[j];
            f.oo += f.ho[j];
            f.og += g[j];
        }
    }

    // What a block decodes with, and the integers behind it where it is part of a super-block.
    struct Scales {
        F scale, offset, integer, minimum_integer;
    };

    // The nearest to a scale and an offset that the type can write.
    Scales writable(int64_t block, F scale, F offset) const {
        if (type.subs.n == 0)
            return {as_written(levels, scale), levels.has_minimum ? as_half(offset) : offset, F{}, F{}};
        const F unit = rows.unit[block / type.subs.n], minimum_unit = rows.minimum_unit[block / type.subs.n];
        const F integer =
            nearest_float(select(unit != 0.f, scale / unit, F{}), type.subs.scale_low, type.subs.scale_high);
        if (!levels.has_minimum) return {unit * integer, offset, integer, F{}};
        const F minimum_integer =
            nearest_float(select(minimum_unit != 0.f, -offset / minimum_unit, F{}), 0.f, type.subs.scale_high);
        return {unit * integer, -(minimum_unit * minimum_integer), integer, minimum_integer};
    }

    // Scale and offset by least squares, as the type can write them; kept where the loss falls.
    void scales(int64_t block) {
        Fit f;
        fit(block * n, f);
        F ds = select(f.ll > 0.f, f.lg / f.ll, F{}), dm = F{};
        if (levels.has_minimum) {
            const F determinant = f.ll * f.oo - f.lo * f.lo;
            const I sound = determinant > 1e-6f * (f.ll * f.oo);
            ds = select(sound, (f.oo * f.lg - f.lo * f.og) / determinant, ds);
            dm = select(sound, (f.ll * f.og - f.lo * f.lg) / determinant, dm);
        }
        const F scale = rows.scale[block], offset = rows.offset[block];
        const Scales next = writable(block, scale + ds, offset + dm);
        ds = next.scale - scale;
        dm = next.offset - offset;
        const F loss = ds * (ds * f.ll + 2.f * (dm * f.lo - f.lg)) + dm * (dm * f.oo - 2.f * f.og);
        const I better = loss < 0.f;
        if (!any(better)) return;
        ds = select(better, ds, F{});
        dm = select(better, dm, F{});
        rows.scale[block] = select(better, next.scale, scale);
        rows.offset[block] = select(better, next.offset, offset);
        if (type.subs.n == 0) {
            rows.unit[block] = rows.scale[block];
            rows.minimum_unit[block] = rows.offset[block];
        } else {
            rows.integer[block] = select(better, next.integer, rows.integer[block]);
            rows.minimum[block] = select(better, next.minimum_integer, rows.minimum[block]);
        }
        for (int j = 0; j < n; ++j) {
            change[j] += ds * f.l[j] + dm;
            g[j] -= ds * f.hl[j] + dm * f.ho[j];
        }
    }

    void sweep(int64_t block, F* moved) {
        const int64_t begin = block * n;
        for (int j = 0; j < n; ++j) g[j] = rows.gradient[begin + j], change[j] = F{};
        integers(block);
        scales(block);
        integers(block);
        for (int j = 0; j < n; ++j) moved[j] = change[j];
    }
};

// The gradient of what the first pass chose: its change from the weights, which takes the place of x, times the moment.
void start(const std::vector<Pair>& pairs, const TypeRow& type, const Tiled& moment, int64_t n_columns) {
    for (const Pair& pair : pairs) {
        for (const int side : {0, 1}) {
            const Rows& rows = pair[side];
            for (int64_t c = 0; c < n_columns; ++c) {
                const int64_t block = c / sub_size(type);
                const F decoded = rows.scale[block] * value_of(type.levels, rows.level[c]) + rows.offset[block];
                rows.x[c] = decoded - rows.weights_of(c);
                rows.gradient[c] = F{};
            }
        }
    }
    const Columns all{0, n_columns};
    for (int64_t c = 0; c < n_columns; c += kSide)
        for (const Pair& pair : pairs)
            take_off(moment, all, pair.one.x, pair.two.x, {c, c + kSide}, pair.one.gradient, pair.two.gradient);
}

}  // namespace

void improve(const std::vector<Pair>& pairs, const TypeRow& type, const Tiled& moment, int n_sweeps) {
    const int64_t n_columns = pairs[0].one.job.n_columns;
    start(pairs, type, moment, n_columns);
    const int n = sub_size(type);
    for (int sweep = 0; sweep < n_sweeps; ++sweep) {
        // Nothing looks at a column again that the last sweep has passed.
        const bool is_last = sweep + 1 == n_sweeps;
        for (int64_t begin = 0; begin < n_columns; begin += kPanel) {
            const Columns panel{begin, begin + kPanel < n_columns ? begin + kPanel : n_columns};
            for (const Pair& pair : pairs) {
                Improver one{pair.one, type, type.levels, n, {}, {}}, two{pair.two, type, type.levels, n, {}, {}};
                for (int64_t at = begin; at < panel.end; at += n) {
                    one.sweep(at / n, pair.one.moved + (at - begin));
                    two.sweep(at / n, pair.two.moved + (at - begin));
                    const Columns near{is_last ? at + n : begin, panel.end};
                    pair.push(&Rows::gradient, moment, begin, {at, at + n}, near);
                }
            }
            if (!is_last) push_all(pairs, &Rows::gradient, moment, panel, {0, begin});
            push_all(pairs, &Rows::gradient, moment, panel, {panel.end, n_columns});
        }
    }
}

}  // namespace whisq::WHISQ_ISA
