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
    const char* x;  // 32 f32 per lane: where the source has them, at any address, or `widened`
    F low, high;
    I nan;  // not 0 in some lane where a weight is NaN, or where infinities of both signs are
    alignas(64) float widened[32 * kLanes];

    F vector(int lane, int j) const {
        F value;
        std::memcpy(&value, x + 4 * (32 * lane + kLanes * j), sizeof value);
        return value;
    }

    float at(int lane, int j) const {
        float value;
        std::memcpy(&value, x + 4 * (32 * lane + j), sizeof value);
        return value;
    }
};

template <Type source_type>
void load_batch(const void* source, int64_t first, int n, Batch& batch, Watch& watch) {
    constexpr int kWeightBytes = source_type == kF32 ? 4 : 2;
    const bool in_place = source_type == kF32 && n == kLanes;
    batch.x = in_place ? (const char*)source + first * 128 : (const char*)batch.widened;
    F low[kLanes], high[kLanes];
    I nan = I{};
    for (int lane = 0; lane < kLanes; ++lane) {
        // Lanes beyond the last block repeat it.
        const int64_t begin = (first + (lane < n ? lane : n - 1)) * 32;
        // Four batches ahead, so that the memory works while the scales are taken; read once, it need not stay.
        for (int j = 0; j < 32; j += 64 / kWeightBytes)
            __builtin_prefetch((const char*)source + (begin + j + 1024) * kWeightBytes, 0, 0);
        F x[kVectors];
        for (int j = 0; j < kVectors; ++j) x[j] = load(source, source_type, begin + j * kLanes);
        if (!in_place) std::memcpy(batch.widened + 32 * lane, x, sizeof x);
        F sum = x[0];
        low[lane] = minimum(x[0], splat(kMost));
        high[lane] = maximum(x[0], splat(-kMost));
        for (int j = 1; j < kVectors; ++j) {
            low[lane] = minimum(x[j], low[lane]);
            high[lane] = maximum(x[j], high[lane]);
            sum += x[j];
        }
        nan |= sum != sum;
    }
    batch.nan = nan;
    batch.low = across(low, [](F a, F b) { return minimum(a, b); });
    batch.high = across(high, [](F a, F b) { return maximum(a, b); });
    watch.add(batch.low);
    watch.add(batch.high);
    watch.suspicious |= nan;
}

// Of the largest magnitude the value itself, first come, as ggml's loop finds it.
float first_extreme(const Batch& batch, int lane) {
    float found = 0.f;
    for (int j = 0; j < 32; ++j)
        if (__builtin_fabsf(batch.at(lane, j)) > __builtin_fabsf(found)) found = batch.at(lane, j);
    return found;
}

F extremes(const Batch& batch) {
    F found = select(batch.high > -batch.low, batch.high, batch.low);
    // Where both ends are as far out, their order decides; without any number or any but zeros, it is +0.
    const I doubtful = ~((batch.high > -batch.low) | (batch.high < -batch.low));
    if (any(doubtful)) {
        for (int lane = 0; lane < kLanes; ++lane)
            if (doubtful[lane]) found[lane] = first_extreme(batch, lane);
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
                if (batch.at(lane, j) == 0.f) found[lane] = batch.at(lane, j);
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
            const float magnitude = __builtin_fabsf(batch.at(lane, j));
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

    Each() = default;
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

// What a type makes of a batch: first the scales of its blocks, then their integers.

template <int kBits>
struct Symmetric {
    static constexpr int kHalf = 1 << (kBits - 1);
    Each scales, inverses;

    void take(const Batch& batch) {
        const F scale = extremes(batch) / (float)-kHalf;
        scales = Each(scale);
        inverses = Each(inverse_of(scale));
    }

    uint8_t* put(const Batch& batch, int lane, uint8_t* to) const {
        I l[kVectors];
        for (int j = 0; j < kVectors; ++j)
            l[j] = truncated(batch.vector(lane, j) * inverses.value[lane] + ((float)kHalf + 0.5f));
        const Bytes whole = low_bytes(l), most = Bytes{} + (uint8_t)(2 * kHalf - 1);  // 0 to 2 * kHalf
        put_half(to, scales.half[lane]);
        return put_integers<kBits>(to + 2, whole < most ? whole : most);
    }
};

template <int kBits>
struct Ranged {
    static constexpr int kTop = (1 << kBits) - 1;
    Each lows, scales, inverses;

    void take(const Batch& batch) {
        // Of zeros with both signs the range is +0, as it is to ggml, whose ends are then both the first of them.
        const F low = smallest(batch), scale = (batch.high - low + 0.f) / (float)kTop;
        lows = Each(low);
        scales = Each(scale);
        inverses = Each(inverse_of(scale));
    }

    uint8_t* put(const Batch& batch, int lane, uint8_t* to) const {
        I l[kVectors];
        for (int j = 0; j < kVectors; ++j)
            l[j] = truncated((batch.vector(lane, j) - lows.value[lane]) * inverses.value[lane] + 0.5f);
        put_half(to, scales.half[lane]);
        put_half(to + 2, lows.half[lane]);
        return put_integers<kBits>(to + 4, low_bytes(l));
    }
};

struct Bytewise {
    Each scales, inverses;

    void take(const Batch& batch) {
        const F scale = magnitudes(batch) / 127.f;
        scales = Each(scale);
        inverses = Each(inverse_of(scale));
    }

    uint8_t* put(const Batch& batch, int lane, uint8_t* to) const {
        I l[kVectors];
        for (int j = 0; j < kVectors; ++j) l[j] = rounded_away(batch.vector(lane, j) * inverses.value[lane]);
        const Bytes whole = low_bytes(l);
        put_half(to, scales.half[lane]);
        std::memcpy(to + 2, &whole, sizeof whole);
        return to + 34;
    }
};

// Two batches on the way: the scales of one take divisions, one after the other, while the other's integers are put.
template <Type source_type, typename Rounder>
void round_all(const Job& job, Watch& watch) {
    const int64_t n_blocks = job.n_rows * job.n_columns / 32;
    Batch batches[2];
    Rounder rounders[2];
    uint8_t* to = job.destination;
    for (int64_t first = 0; first < n_blocks + kLanes; first += kLanes) {
        const int now = (int)(first / kLanes & 1);
        if (first < n_blocks) {
            const int64_t left = n_blocks - first;
            load_batch<source_type>(job.source, first, left < kLanes ? (int)left : kLanes, batches[now], watch);
            rounders[now].take(batches[now]);
        }
        if (first == 0) continue;
        const int64_t left = n_blocks - (first - kLanes);
        const int n = left < kLanes ? (int)left : kLanes;
        for (int lane = 0; lane < n; ++lane) to = rounders[1 - now].put(batches[1 - now], lane, to);
    }
}

template <typename Rounder>
void round_from(const Job& job, Watch& watch) {
    if (job.source_type == kF16)
        round_all<kF16, Rounder>(job, watch);
    else if (job.source_type == kBF16)
        round_all<kBF16, Rounder>(job, watch);
    else
        round_all<kF32, Rounder>(job, watch);
}

}  // namespace

template <int kBits>
void round_symmetric(const Job& job, Watch& watch) {
    round_from<Symmetric<kBits>>(job, watch);
}

template <int kBits>
void round_ranged(const Job& job, Watch& watch) {
    round_from<Ranged<kBits>>(job, watch);
}

void round_q8_0(const Job& job, Watch& watch) { round_from<Bytewise>(job, watch); }

template void round_symmetric<4>(const Job&, Watch&);
template void round_symmetric<5>(const Job&, Watch&);
template void round_ranged<4>(const Job&, Watch&);
template void round_ranged<5>(const Job&, Watch&);

}  // namespace whisq::WHISQ_ISA
