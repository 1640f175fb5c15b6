// Rounding to what is nearest to the weights, block by block: another rounding's blocks stay where they are as near.
#include "fit.h"

#include "families.h"

namespace whisq::WHISQ_ISA {
namespace {

constexpr float kMostGrowth = 1.5f;  // of units: blocks of which more is lost are ggml's in the end

// A group of blocks that follow each other, one a lane; lanes beyond the last repeat it.
struct Blocks {
    int64_t first;
    int n;  // lanes with a block of their own
    int64_t begin[kLanes], column[kLanes];

    Blocks(const FitJob& job, int64_t first, int block_size) : first(first) {
        const int64_t per_row = job.n_columns / block_size, n_blocks = job.n_rows * per_row, left = n_blocks - first;
        n = (int)(left < kLanes ? left : kLanes);
        for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t number = first + (lane < n ? lane : n - 1);
            begin[lane] = number * block_size;
            column[lane] = number % per_row * block_size;
        }
    }

    // to[j] holds element j of all lanes.
    static void load(const float* source, const int64_t* from, int length, F* to) {
        for (int j = 0; j < length; j += kLanes) {
            for (int lane = 0; lane < kLanes; ++lane) to[j + lane] = load_floats(source + from[lane] + j);
            transpose(to + j);
        }
    }
};

// A zero has no sign: it depends on how an instruction set takes the nearest integer.
void put(float* to, int64_t first, int width, const F* values, int n) {
    for (int lane = 0; lane < n; ++lane)
        for (int at = 0; at < width; ++at) to[(first + lane) * width + at] = values[at][lane] + 0.f;
}

// What an error of each weight costs: its importance, and as ggml weighs that, times sqrt(mean square + x^2).
void costs_of(const F* x, int n, F* importance) {
    F sum{};
    for (int j = 0; j < n; ++j) sum += x[j] * x[j];
    const F mean = sum / (float)n;
    for (int j = 0; j < n; ++j) importance[j] = importance[j] * square_root(mean + x[j] * x[j]);
}

// What was found for a group of blocks: units, and the integers of sub-blocks where there are such.
template <Type kType>
struct Result {
    using Part = Fitter<kType>;
    static constexpr int n = Part::row.block_size, n_subs = Part::n_subs;

    F unit, minimum_unit, integer[n_subs], minimum_l[n_subs];
    F level[n], value[n];

    Result(const F* x, const F* w) {
        if constexpr (Part::is_super) {
            const auto found = SuperFitter<kType>::search(x, w);
            unit = found.unit, minimum_unit = found.minimum_unit;
            for (int j = 0; j < n_subs; ++j) integer[j] = found.integer[j], minimum_l[j] = found.minimum[j];
        } else {
            const Scales found = Part::search(x, w).scales;
            unit = found.scale, minimum_unit = found.offset;
        }
        for (int j = 0; j < n; ++j) {
            const Scales s = scales(j / Part::size);
            const F scaled = (Part::has_offset ? x[j] - s.offset : x[j]) * Part::inverse_of(s.scale);
            if constexpr (Part::levels.has_book)
                level[j] = nearest_index(*Part::levels.book, scaled);
            else
                level[j] = nearest_float(scaled, Part::levels.low, Part::levels.high);
            value[j] = value_of(Part::levels, level[j]);
        }
    }

    Scales scales(int j) const {
        if constexpr (!Part::is_super) return {unit, minimum_unit};
        return {unit * integer[j], Part::has_offset ? -(minimum_unit * minimum_l[j]) : F{}};
    }

    F decoded(int j) const {
        const Scales s = scales(j / Part::size);
        return Part::has_offset ? s.scale * value[j] + s.offset : s.scale * value[j];
    }

    F loss(const F* x, const F* w) const {
        F sum{};
        for (int j = 0; j < n; ++j) {
            const F error = x[j] - decoded(j);
            sum += w[j] * error * error;
        }
        return sum;
    }

    // Units so much larger that a block is as large as its weights: what is nearest is smaller, and layers that are all
    // smaller add up. The integers stay.
    void grow(const F* x, const F* w) {
        F weights{}, found{};
        for (int j = 0; j < n; ++j) {
            const F wx = w[j] * x[j];
            weights += wx * x[j];
            found += wx * decoded(j);
        }
        const F by = select(found > 0.f, minimum(weights / found, splat(kMostGrowth)), splat(1.f));
        unit = Part::is_super ? as_half(unit * by) : as_written(Part::levels, unit * by);
        if (Part::has_offset) minimum_unit = as_half(minimum_unit * by);
    }
};

template <Type kType>
void fit_blocks(const FitJob& job) {
    constexpr int n = row_of(kType).block_size, n_subs = row_of(kType).subs.n;
    const int64_t n_blocks = job.n_rows * (job.n_columns / n);
    F x[n], w[n], plain[n];
    for (int64_t first = 0; first < n_blocks; first += kLanes) {
        const Blocks blocks(job, first, n);
        Blocks::load(job.weights, blocks.begin, n, x);
        Blocks::load(job.importance, blocks.column, n, w);
        Blocks::load(job.plain, blocks.begin, n, plain);
        costs_of(x, n, w);
        F before{};
        for (int j = 0; j < n; ++j) before += w[j] * (x[j] - plain[j]) * (x[j] - plain[j]);
        Result<kType> result(x, w);
        const F unit = result.unit, minimum_unit = result.minimum_unit, after = result.loss(x, w);
        result.grow(x, w);
        const I grown = result.loss(x, w) < before, better = grown | (after < before);
        result.unit = select(grown, result.unit, unit);
        result.minimum_unit = select(grown, result.minimum_unit, minimum_unit);
        put(job.units, first, 1, &result.unit, blocks.n);
        put(job.minimum_units, first, 1, &result.minimum_unit, blocks.n);
        if constexpr (n_subs != 0) {
            put(job.scale_integers, first, n_subs, result.integer, blocks.n);
            put(job.minimum_integers, first, n_subs, result.minimum_l, blocks.n);
        }
        for (int lane = 0; lane < blocks.n; ++lane) {
            job.is_better[first + lane] = better[lane] != 0;
            for (int j = 0; j < n; ++j)
                job.levels[blocks.begin[lane] + j] = stored_integer(row_of(kType).levels, result.level[j][lane]);
        }
    }
}

template <int kIndex>
Outcome fit_type(const FitJob& job) {
    if constexpr (kIndex == kTypeCount) {
        return Outcome::kNoKernel;
    } else if constexpr (is_dense(kTypes[kIndex])) {
        return fit_type<kIndex + 1>(job);
    } else {
        if (job.type != kTypes[kIndex].type) return fit_type<kIndex + 1>(job);
        fit_blocks<kTypes[kIndex].type>(job);
        return Outcome::kDone;
    }
}

}  // namespace

Outcome fit(const FitJob& job) { return fit_type<0>(job); }

}  // namespace whisq::WHISQ_ISA
