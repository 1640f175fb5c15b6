// A block rounded under feedback: with one scale and offset, or with many to find the best of them.
#pragma once

#include "feedback.h"

namespace whisq::WHISQ_ISA {

// What rounding a block gave.
struct Rounded {
    F loss;
    F level[32];  // l of Levels
    F error[32];
};

inline void round_block(const Block& b, const Levels& levels, F scale, F offset, Rounded& result) {
    const F inverse = select(scale != 0.f, 1.f / scale, F{});
    F x[32];
    for (int j = 0; j < b.n; ++j) x[j] = b.x[j];
    result.loss = F{};
    for (int j = 0; j < b.n; ++j) {
        const F scaled = (x[j] - offset) * inverse;
        F decoded;
        if (levels.book != nullptr) {
            result.level[j] = nearest_index(*levels.book, scaled);
            decoded = scale * value_at(*levels.book, result.level[j]);
        } else {
            result.level[j] = nearest_float(scaled, levels.low, levels.high);
            decoded = scale * result.level[j] + offset;
        }
        const F error = x[j] - decoded;
        result.error[j] = error;
        result.loss += b.gain[j] * (error * error);
        const float* row = b.factor + 32 * j;
        for (int k = j + 1; k < b.n; ++k) x[k] -= error * row[k];
    }
}

// The best of the candidates seen so far, lane by lane.
struct Best {
    F loss, scale, offset;
    void start() { loss = splat(3.4e38f), scale = offset = F{}; }
    void add(F candidate_loss, F candidate_scale, F candidate_offset) {
        const I better = candidate_loss < loss;
        loss = select(better, candidate_loss, loss);
        scale = select(better, candidate_scale, scale);
        offset = select(better, candidate_offset, offset);
    }
};

// Candidates that are tried side by side: alone, each column would wait for the column before.
constexpr int kTogether = 4;

// Of all candidates those whose errors weigh least without feedback are tried with it, which costs five times as much:
// as many as are no worse in the end than all.
constexpr int kTried = 4;

// Candidates for a block's scale and offset, gathered and tried; of each is kept what the caller calls it by.
class Trials {
   public:
    Trials(const Block& block, const Levels& levels) : block_(block), levels_(levels) {}

    void add(F scale, F offset) { add(scale, offset, scale, offset); }
    void add(F scale, F offset, F scale_name, F offset_name) {
        Candidate next{{}, scale, offset, inverse_of(scale), scale_name, offset_name};
        for (int j = 0; j < block_.n; ++j) {
            const F lost = error(next, block_.x[j]);
            next.loss += block_.gain[j] * (lost * lost);
        }
        const int last = n_ < kTried ? n_++ : n_ - 1;
        for (int place = 0; place <= last; ++place) candidates_[place].exchange(next);
    }

    Best best() {
        Best best;
        best.start();
        for (int first = 0; first < n_; first += kTogether) run(candidates_ + first, best);
        return best;
    }

   private:
    struct Candidate {
        F loss = splat(3.4e38f), scale{}, offset{}, inverse{}, scale_name{}, offset_name{};

        // Where the other loses less, they change places.
        void exchange(Candidate& other) {
            const I better = other.loss < loss;
            const auto change = [&](F& mine, F& theirs) {
                const F before = mine;
                mine = select(better, theirs, mine);
                theirs = select(better, before, theirs);
            };
            change(loss, other.loss), change(scale, other.scale), change(offset, other.offset);
            change(inverse, other.inverse), change(scale_name, other.scale_name);
            change(offset_name, other.offset_name);
        }
    };

    const Block& block_;
    const Levels& levels_;
    int n_ = 0;
    Candidate candidates_[kTried];  // those before n_, the best first

    static F inverse_of(F scale) { return select(scale != 0.f, 1.f / scale, F{}); }

    F error(const Candidate& candidate, F x) const {
        const F scaled = (x - candidate.offset) * candidate.inverse;
        if (levels_.book != nullptr) return x - candidate.scale * nearest_value(*levels_.book, scaled);
        const F level = nearest_float(scaled, levels_.low, levels_.high);
        return x - (candidate.scale * level + candidate.offset);
    }

    // As round_block, two columns at a time; the sums come in the same order.
    void run(const Candidate* tried, Best& best) const {
        F errors[32][kTogether], loss[kTogether]{};
        for (int j = 0; j < block_.n; j += 2) {
            F left[kTogether], right[kTogether];
            for (int c = 0; c < kTogether; ++c) left[c] = block_.x[j], right[c] = block_.x[j + 1];
            const float* factor = block_.factor + j;
            for (int i = 0; i < j; ++i, factor += 32) {
                for (int c = 0; c < kTogether; ++c) {
                    left[c] -= errors[i][c] * factor[0];
                    right[c] -= errors[i][c] * factor[1];
                }
            }
            for (int c = 0; c < kTogether; ++c) {
                const F first = error(tried[c], left[c]);
                const F second = error(tried[c], right[c] - first * factor[1]);
                errors[j][c] = first;
                errors[j + 1][c] = second;
                loss[c] += block_.gain[j] * (first * first);
                loss[c] += block_.gain[j + 1] * (second * second);
            }
        }
        // A place that no candidate took has a loss beyond all, and none is written by it.
        for (int c = 0; c < kTogether; ++c) {
            const F found = select(tried[c].loss < 3.4e38f, loss[c], splat(3.4e38f));
            best.add(found, tried[c].scale_name, tried[c].offset_name);
        }
    }
};

static_assert(kTried % kTogether == 0);

}  // namespace whisq::WHISQ_ISA
