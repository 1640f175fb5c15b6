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
        const float* row = b.factor + j * b.stride;
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

// Candidates for a block's scale and offset, gathered and tried; of each is kept what the caller calls it by.
class Trials {
   public:
    Trials(const Block& block, const Levels& levels) : block_(block), levels_(levels) { best_.start(); }

    void add(F scale, F offset) { add(scale, offset, scale, offset); }
    void add(F scale, F offset, F scale_name, F offset_name) {
        scale_[n_] = scale;
        offset_[n_] = offset;
        inverse_[n_] = select(scale != 0.f, 1.f / scale, F{});
        scale_name_[n_] = scale_name;
        offset_name_[n_] = offset_name;
        if (++n_ == kTogether) run();
    }

    const Best& best() {
        if (n_ != 0) run();
        return best_;
    }

   private:
    const Block& block_;
    const Levels& levels_;
    Best best_;
    int n_ = 0;
    F scale_[kTogether]{}, offset_[kTogether]{}, inverse_[kTogether]{};
    F scale_name_[kTogether], offset_name_[kTogether], loss_[kTogether];

    F error(int candidate, F x) const {
        const F scaled = (x - offset_[candidate]) * inverse_[candidate];
        if (levels_.book != nullptr) return x - scale_[candidate] * nearest_value(*levels_.book, scaled);
        const F level = nearest_float(scaled, levels_.low, levels_.high);
        return x - (scale_[candidate] * level + offset_[candidate]);
    }

    // As round_block, two columns at a time; the sums come in the same order.
    void run() {
        F errors[32][kTogether];
        for (F& loss : loss_) loss = F{};
        for (int j = 0; j < block_.n; j += 2) {
            F left[kTogether], right[kTogether];
            for (int c = 0; c < kTogether; ++c) left[c] = block_.x[j], right[c] = block_.x[j + 1];
            const float* factor = block_.factor + j;
            for (int i = 0; i < j; ++i, factor += block_.stride) {
                for (int c = 0; c < kTogether; ++c) {
                    left[c] -= errors[i][c] * factor[0];
                    right[c] -= errors[i][c] * factor[1];
                }
            }
            for (int c = 0; c < kTogether; ++c) {
                const F first = error(c, left[c]);
                const F second = error(c, right[c] - first * factor[1]);
                errors[j][c] = first;
                errors[j + 1][c] = second;
                loss_[c] += block_.gain[j] * (first * first);
                loss_[c] += block_.gain[j + 1] * (second * second);
            }
        }
        for (int c = 0; c < n_; ++c) best_.add(loss_[c], scale_name_[c], offset_name_[c]);
        n_ = 0;
    }
};

}  // namespace whisq::WHISQ_ISA
