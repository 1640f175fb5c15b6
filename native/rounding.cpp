// q4_0 q4_1 q5_0 q5_1 q8_0 without importance. Nothing is searched, so that what costs is moving the weights: here the
// lanes lie along the block, and only the scales of kLanes blocks are taken side by side.
// Layouts and arithmetic: ggml-common.h, ggml-quants.c (quantize_row_q*_ref).
#include "bytes.h"
#include "families.h"

namespace whisq::WHISQ_ISA {
namespace {

constexpr float kMost = 3.40282347e+38f;

// The weights of kLanes blocks, and the ends of every block's range.
struct Batch {
    F x[kLanes][kVectors];
    F low, high;
    I nan;  // not 0 in some lane where a weight is NaN, or where infinities of both signs are

    const float* block(int lane) const { return (const float*)x[lane]; }
};

template <int source_type>
void load_batch(const void* source, int64_t first, int n, Batch& batch, Watch& watch) {
    constexpr int kWeightBytes = source_type == kF32 ? 4 : 2;
    F low[kLanes], high[kLanes];
    batch.nan = I{};
    for (int lane = 0; lane < kLanes; ++lane) {
        F* x = batch.x[lane];
        if (lane < n) {
            const int64_t begin = (first + lane) * 32;
            // Two batches or so ahead, so that the memory works while the scales are taken.
            for (int j = 0; j < 32; j += 64 / kWeightBytes)
                __builtin_prefetch((const char*)source + (begin + j + 512) * kWeightBytes);
            for (int j = 0; j < kVectors; ++j) x[j] = load(source, source_type, begin + j * kLanes);
        }
        low[lane] = minimum(x[0], splat(kMost));
        high[lane] = maximum(x[0], splat(-kMost));
        F sum = x[0];
        for (int j = 1; j < kVectors; ++j) {
            low[lane] = minimum(x[j], low[lane]);
            high[lane] = maximum(x[j], high[lane]);
            sum += x[j];
        }
        batch.nan |= sum != sum;
    }
    batch.low = across(low, [](F a, F b) { return minimum(a, b); });
    batch.high = across(high, [](F a, F b) { return maximum(a, b); });
    watch.see(batch.low);
    watch.see(batch.high);
    watch.strange |= batch.nan;
}

// Of the largest magnitude the value itself, first come, as ggml's loop finds it.
float first_extreme(const float* x) {
    float found = 0.f;
    for (int j = 0; j < 32; ++j)
        if (__builtin_fabsf(x[j]) > __builtin_fabsf(found)) found = x[j];
    return found;
}

F extremes(const Batch& batch) {
    F found = select(batch.high > -batch.low, batch.high, batch.low);
    // Where both ends are as far out, their order decides; without any number or any but zeros, it is +0.
    const I doubtful = ~((batch.high > -batch.low) | (batch.high < -batch.low));
    if (any(doubtful)) {
        for (int lane = 0; lane < kLanes; ++lane)
            if (doubtful[lane]) found[lane] = first_extreme(batch.block(lane));
    }
    return found;
}

// The smallest value; of zeros the first, whose sign is kept in the block.
F smallest(const Batch& batch) {
    F found = batch.low;
    const I is_zero = found == 0.f;
    if (any(is_zero)) {
        for (int lane = 0; lane < kLanes; ++lane) {
            if (!is_zero[lane]) continue;
            for (int j = 31; j >= 0; --j)
                if (batch.block(lane)[j] == 0.f) found[lane] = batch.block(lane)[j];
        }
    }
    return found;
}

// The largest magnitude; where there is a NaN, what ggml's MAX makes of it.
F magnitudes(const Batch& batch) {
    F found = maximum(absolute(batch.low), absolute(batch.high));
    if (!any(batch.nan)) return found;
    for (int lane = 0; lane < kLanes; ++lane) {
        float largest = 0.f;
        for (int j = 0; j < 32; ++j) {
            const float magnitude = __builtin_fabsf(batch.block(lane)[j]);
            largest = largest > magnitude ? largest : magnitude;
        }
        found[lane] = largest;
    }
    return found;
}

F inverse_of(F scale) { return select(scale != 0.f, 1.f / scale, F{}); }

// What the lanes hold, one by one.
struct Each {
    float value[kLanes];
    uint16_t half[kLanes];

    explicit Each(F lanes) {
        std::memcpy(value, &lanes, sizeof value);
        halves_of(lanes, half);
    }
};

// roundf: half away from zero. What is beyond int32 stays as the conversion left it.
I rounded_away(F value) {
    const I whole = truncated(value);
    const F rest = value - to_float(whole);
    return whole - ((rest >= 0.5f) & (rest <= 1.f)) + ((rest <= -0.5f) & (rest >= -1.f));
}

template <int kBits>
uint8_t* put_integers(uint8_t* to, Bytes l) {
    if (kBits == 5) {
        const uint32_t bits = fifth_bits(l);
        std::memcpy(to, &bits, 4);
        to += 4;
    }
    const Half packed = nibbles(l & 15);
    std::memcpy(to, &packed, 16);
    return to + 16;
}

template <int kBits>
void round_symmetric(const Batch& batch, int n, uint8_t* to) {
    constexpr int kHalf = 1 << (kBits - 1);
    const F scale = extremes(batch) / (float)-kHalf;
    const Each scales(scale), inverses(inverse_of(scale));
    const Bytes most = Bytes{} + (uint8_t)(2 * kHalf - 1);
    for (int lane = 0; lane < n; ++lane) {
        I l[kVectors];
        for (int j = 0; j < kVectors; ++j)
            l[j] = truncated(batch.x[lane][j] * inverses.value[lane] + ((float)kHalf + 0.5f));
        const Bytes whole = low_bytes(l);  // 0 to 2 * kHalf
        put_half(to, scales.half[lane]);
        to = put_integers<kBits>(to + 2, whole < most ? whole : most);
    }
}

template <int kBits>
void round_ranged(const Batch& batch, int n, uint8_t* to) {
    constexpr int kTop = (1 << kBits) - 1;
    // Of zeros with both signs the range is +0, as it is to ggml, whose ends are then both the first of them.
    const F low = smallest(batch), scale = (batch.high - low + 0.f) / (float)kTop;
    const Each lows(low), scales(scale), inverses(inverse_of(scale));
    for (int lane = 0; lane < n; ++lane) {
        I l[kVectors];
        for (int j = 0; j < kVectors; ++j)
            l[j] = truncated((batch.x[lane][j] - lows.value[lane]) * inverses.value[lane] + 0.5f);
        put_half(to, scales.half[lane]);
        put_half(to + 2, lows.half[lane]);
        to = put_integers<kBits>(to + 4, low_bytes(l));
    }
}

void round_q8_0(const Batch& batch, int n, uint8_t* to) {
    const F scale = magnitudes(batch) / 127.f;
    const Each scales(scale), inverses(inverse_of(scale));
    for (int lane = 0; lane < n; ++lane, to += 34) {
        I l[kVectors];
        for (int j = 0; j < kVectors; ++j) l[j] = rounded_away(batch.x[lane][j] * inverses.value[lane]);
        const Bytes whole = low_bytes(l);
        put_half(to, scales.half[lane]);
        std::memcpy(to + 2, &whole, sizeof whole);
    }
}

using Rounding = void (*)(const Batch&, int n, uint8_t* to);

template <int source_type>
void round_all(const Job& job, Rounding round, Watch& watch) {
    const int64_t n_blocks = job.n_rows * job.n_columns / 32, bytes = block_bytes(job.type);
    Batch batch{};
    for (int64_t first = 0; first < n_blocks; first += kLanes) {
        const int n = n_blocks - first < kLanes ? (int)(n_blocks - first) : kLanes;
        load_batch<source_type>(job.source, first, n, batch, watch);
        round(batch, n, job.destination + first * bytes);
    }
}

Rounding rounding_of(int type) {
    switch (type) {
        case kQ4_0:
            return round_symmetric<4>;
        case kQ5_0:
            return round_symmetric<5>;
        case kQ4_1:
            return round_ranged<4>;
        case kQ5_1:
            return round_ranged<5>;
        case kQ8_0:
            return round_q8_0;
        default:
            return nullptr;
    }
}

}  // namespace

bool round_blocks(const Job& job, Watch& watch) {
    const Rounding round = rounding_of(job.type);
    if (round == nullptr) return false;
    if (job.source_type == kF16)
        round_all<kF16>(job, round, watch);
    else if (job.source_type == kBF16)
        round_all<kBF16>(job, round, watch);
    else
        round_all<kF32>(job, round, watch);
    return true;
}

}  // namespace whisq::WHISQ_ISA
