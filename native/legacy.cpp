// q4_0 q4_1 q5_0 q5_1 with importance: blocks of 32 weights with an f16 scale, and for the _1 types an f16 minimum.
// Layouts and arithmetic: ggml-common.h, ggml-quants.c (quantize_row_q*_impl).
#include "families.h"
#include "search.h"

namespace whisq::WHISQ_ISA {
namespace {

// Write the 4- or 5-bit integers of 32 weights: low nibbles of j and j + 16 share a byte, and the fifth bits stand
// before them.
void put_nibbles(const Group& g, const I* l, int offset) {
    for (int j = 0; j < 16; j += 4) {
        I bytes[4];
        for (int k = 0; k < 4; ++k) bytes[k] = (l[j + k] & 15) | (l[j + k + 16] & 15) << 4;
        put_words(g, offset + j, pack_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
    }
}

void put_fifth_bits(const Group& g, const I* l, int offset) {
    I bits = I{};
    for (int j = 0; j < 32; ++j) bits |= (l[j] >> 4 & 1) << j;
    put_words(g, offset, bits);
}

void put_scale(const Group& g, F value, int offset) {
    uint16_t halves[kLanes];
    halves_of(value, halves);
    for (int lane = 0; lane < kLanes; ++lane) put_half(g.out[lane] + offset, halves[lane]);
}

// Importance as ggml weighs it: importance * sqrt(mean square of the row + x^2).
void weights_of(const Group& g, int n, F* w) {
    for (int j = 0; j < n; ++j) w[j] = g.importance_of(j) * square_root(g.row_mean_square + g.x[j] * g.x[j]);
}

template <int kBits>
void put_integers(const Group& g, const I* l, int offset) {
    if (kBits == 5) put_fifth_bits(g, l, offset);
    put_nibbles(g, l, kBits == 5 ? offset + 4 : offset);
}

}  // namespace

template <int kBits, int kBlocks>
void quantize_symmetric(const Group& g) {
    constexpr int kHalf = 1 << (kBits - 1), kBytes = kBits == 5 ? 22 : 18;
    F w[32 * kBlocks];
    weights_of(g, 32 * kBlocks, w);
    Scale found[kBlocks];
    search_scales<32, kBlocks>(g.x, w, kHalf, found);
    for (int block = 0; block < kBlocks; ++block) {
        I l[32];
        for (int j = 0; j < 32; ++j) l[j] = stored_integer(found[block], g.x[32 * block + j], kHalf);
        put_scale(g, found[block].scale, block * kBytes);
        put_integers<kBits>(g, l, block * kBytes + 2);
    }
}

template <int kBits, int kBlocks>
void quantize_ranged(const Group& g) {
    constexpr int kMost = (1 << kBits) - 1, kBytes = kBits == 5 ? 24 : 20;
    F w[32 * kBlocks];
    weights_of(g, 32 * kBlocks, w);
    ScaleMin found[kBlocks];
    search_scales_min<false, 32, kBlocks>(g.x, w, {kMost, -0.9f, 0.05f, 36}, found);
    for (int block = 0; block < kBlocks; ++block) {
        I l[32];
        for (int j = 0; j < 32; ++j) l[j] = stored_integer(found[block], g.x[32 * block + j], kMost);
        put_scale(g, found[block].scale, block * kBytes);
        put_scale(g, -found[block].minimum, block * kBytes + 2);
        put_integers<kBits>(g, l, block * kBytes + 4);
    }
}

template void quantize_symmetric<4, 1>(const Group&);
template void quantize_symmetric<4, 2>(const Group&);
template void quantize_symmetric<5, 1>(const Group&);
template void quantize_symmetric<5, 2>(const Group&);
template void quantize_ranged<4, 1>(const Group&);
template void quantize_ranged<4, 2>(const Group&);
template void quantize_ranged<5, 1>(const Group&);
template void quantize_ranged<5, 2>(const Group&);

}  // namespace whisq::WHISQ_ISA
