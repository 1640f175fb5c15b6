// The second pass of rounding with feedback: coordinate descent on what the first pass chose.
//
// The first pass corrects later columns for the errors of earlier ones and never looks back. Here every integer, and
// then the scale (and offset) of every block, is set to the best with all others as they are, block by block (the loss
// and its coordinates: Behdin et al. 2023, "QuantEase", arXiv 2309.01885). The loss never rises. Scales are for the
// last sweep: few integers move in one, which costs little, where a scale moves all weights of its block.
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

    Tiled moment() const { return {rows.job.prepared.moment, rows.job.n_columns}; }

    // Every integer in turn: the nearest to where the loss is least.
    void integers(int64_t block) {
        const int64_t begin = block * n;
        const F scale = rows.scale[block];
        const Tiled near = moment();
        for (int j = 0; j < n; ++j) {
            const float h = *near.at(begin + j, begin + j);
            F* level = rows.level + begin + j;
            F next;
            if (levels.book != nullptr) {
                const F up = minimum(*level + 1.f, splat(levels.high)), down = maximum(*level - 1.f, F{});
                const F now = value_of(levels, *level);
                const F a = scale * (value_of(levels, up) - now), b = scale * (value_of(levels, down) - now);
                const F a_loss = a * (h * a - 2.f * g[j]), b_loss = b * (h * b - 2.f * g[j]);
                next = select(a_loss < b_loss, select(a_loss < 0.f, up, *level), select(b_loss < 0.f, down, *level));
            } else {
                const F step = scale * h;
                const F wish = select(step != 0.f, g[j] / step, F{});
                next = nearest_float(*level + nearest_float(wish, -64.f, 64.f), levels.low, levels.high);
            }
            const F delta = scale * (value_of(levels, next) - value_of(levels, *level));
            if (!any(delta != 0.f)) continue;
            *level = next;
            change[j] += delta;
            for (int tile = 0; tile < n; tile += kTile) {
                const float* others = near.at(begin + j, begin + tile);
                for (int k = 0; k < kTile; ++k) g[tile + k] -= others[k] * delta;
            }
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
        const Tiled near = moment();
        for (int j = 0; j < n; ++j) f.l[j] = value_of(levels, rows.level[begin + j]);
        for (int tile = 0; tile < n; tile += kTile) {
            F hl[kTile]{};
            float ho[kTile]{};
            const float* h = near.at(begin, begin + tile);
            for (int j = 0; j < n; ++j, h += kTile)
                for (int k = 0; k < kTile; ++k) hl[k] += h[k] * f.l[j], ho[k] += h[k];
            for (int k = 0; k < kTile; ++k) f.hl[tile + k] = hl[k], f.ho[tile + k] = ho[k];
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

    void begin(int64_t block) {
        for (int j = 0; j < n; ++j) g[j] = rows.x[block * n + j], change[j] = F{};
    }

    // All of a block: its integers, its scale, and its integers again. What is moved is what that added to its weights.
    void all(int64_t block, F* moved) {
        begin(block);
        integers(block);
        scales(block);
        integers(block);
        for (int j = 0; j < n; ++j) moved[j] = change[j];
    }
};

// Replace in every row -gain * error by the gradient g = H d = V (gain * error), d being what rounding took.
void start(const std::vector<Pair>& pairs, const Tiled& triangle, int64_t n_columns) {
    for (int64_t begin = 0; begin < n_columns; begin += kPanel) {
        const Columns panel{begin, begin + kPanel < n_columns ? begin + kPanel : n_columns};
        for (int64_t c = 0; c < begin; c += kSide)
            for (const Pair& pair : pairs)
                take_off(triangle, panel, pair.one.x + begin, pair.two.x + begin, {c, c + kSide}, pair.one.x,
                         pair.two.x);
        for (const Pair& pair : pairs) {
            for (int64_t c = begin; c < panel.end; c += kSide) {
                for (const int side : {0, 1}) {
                    F* x = pair[side].x + c;
                    for (int k = 0; k < kSide; ++k) {
                        F sum = -x[k];
                        for (int j = k + 1; j < kSide; ++j) sum -= x[j] * *triangle.at(c + j, c + k);
                        x[k] = sum;
                    }
                }
                const Columns later{c + kSide, panel.end};
                take_off(triangle, later, pair.one.x + later.begin, pair.two.x + later.begin, {c, c + kSide},
                         pair.one.x, pair.two.x);
            }
        }
    }
}

using Changed = LaneChanges<kPanel>;

// One sweep over the integers of a panel: what changes goes to the panel's columns at once. Gradients are turned.
void sweep_integers(const Rows& rows, const TypeRow& type, const Tiled& moment, Columns panel, Changed& changed) {
    const int n = sub_size(type);
    Improver improver{rows, type, type.levels, n, {}, {}};
    changed.clear();
    turn(panel, rows.x);
    for (int64_t at = panel.begin; at < panel.end; at += n) {
        improver.begin(at / n);
        improver.integers(at / n);
        int64_t column[32];
        Changes here{0, column, rows.moved};
        for (int j = 0; j < n; ++j) {
            const F change = improver.change[j];
            if (!any(change != 0.f)) continue;
            changed.add(at + j, change);
            column[here.n] = at + j;
            rows.moved[here.n++] = change;
        }
        if (here.n != 0) take_off(moment, here, panel, rows.x);
    }
    turn(panel, rows.x);
}

// The same for all columns; a panel's changes go to the other columns when it is done.
void sweep_integers(const std::vector<Pair>& pairs, const TypeRow& type, const Tiled& moment, int64_t n_columns) {
    std::vector<Changed> changed(2 * pairs.size());
    for (int64_t begin = 0; begin < n_columns; begin += kPanel) {
        const Columns panel{begin, begin + kPanel < n_columns ? begin + kPanel : n_columns};
        for (size_t i = 0; i < changed.size(); ++i)
            sweep_integers(pairs[i / 2][i % 2], type, moment, panel, changed[i]);
        for (int64_t c = 0; c < n_columns; c += kStrip) {
            if (c >= panel.begin && c < panel.end) continue;
            for (size_t i = 0; i < changed.size(); ++i) take_off(moment, changed[i], c, pairs[i / 2][i % 2].x);
        }
    }
}

// The last sweep, over integers and scales: nothing looks at a column again that it has passed.
void sweep_all(const std::vector<Pair>& pairs, const TypeRow& type, const Tiled& moment, int64_t n_columns) {
    const int n = sub_size(type);
    for (int64_t begin = 0; begin < n_columns; begin += kPanel) {
        const Columns panel{begin, begin + kPanel < n_columns ? begin + kPanel : n_columns};
        for (const Pair& pair : pairs) {
            Improver one{pair.one, type, type.levels, n, {}, {}}, two{pair.two, type, type.levels, n, {}, {}};
            for (int64_t at = begin; at < panel.end; at += n) {
                F *moved_one = pair.one.moved + (at - begin), *moved_two = pair.two.moved + (at - begin);
                one.all(at / n, moved_one);
                two.all(at / n, moved_two);
                take_off(moment, {at, at + n}, moved_one, moved_two, {at + n, panel.end}, pair.one.x, pair.two.x);
            }
        }
        push_all(pairs, moment, panel, {panel.end, n_columns});
    }
}

}  // namespace

void improve(const std::vector<Pair>& pairs, const TypeRow& type, int n_sweeps) {
    const FeedbackJob& job = pairs[0].one.job;
    const Tiled triangle(job.prepared.triangle, job.n_columns), moment(job.prepared.moment, job.n_columns);
    start(pairs, triangle, job.n_columns);
    const auto turn_all = [&] {
        for (const Pair& pair : pairs)
            for (const int side : {0, 1}) turn({0, job.n_columns}, pair[side].x);
    };
    turn_all();
    for (int sweep = 1; sweep < n_sweeps; ++sweep) sweep_integers(pairs, type, moment, job.n_columns);
    turn_all();
    sweep_all(pairs, type, moment, job.n_columns);
}

}  // namespace whisq::WHISQ_ISA
