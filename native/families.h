// The families of types: the code that quantizes each type, and which it is.
#pragma once

#include "group.h"

namespace whisq::WHISQ_ISA {

// Takes a loaded group and writes every lane's block.
using GroupKernel = void (*)(const Group&);

// legacy.cpp, with importance: one block in a lane, or two, whose searches then go side by side.
template <int kBits, int kBlocks>
void quantize_symmetric(const Group&);
template <int kBits, int kBlocks>
void quantize_ranged(const Group&);

// rounding.cpp, without importance: a whole job at once.
template <int kBits>
void round_symmetric(const Job&, Watch&);
template <int kBits>
void round_ranged(const Job&, Watch&);
void round_q8_0(const Job&, Watch&);

// k_quants.cpp
void quantize_q2_k(const Group&);
void quantize_q3_k(const Group&);
template <int kBits>
void quantize_q45_k(const Group&);
void quantize_q6_k(const Group&);

// fixed_values.cpp
void quantize_iq4_nl(const Group&);
void quantize_iq4_xs(const Group&);
void quantize_mxfp4(const Group&);

// quantize.cpp: f32, f16, bf16.
void convert(const Job&, Watch&);

// How a type is quantized. Where there is no group kernel, importance plays no part.
struct Quantizer {
    void (*whole)(const Job&, Watch&);  // a job without importance; null: by groups
    GroupKernel one;                    // a block in every lane
    GroupKernel two;                    // two blocks that follow each other; null: one after the other
    bool by_row_mean;                   // whether importance is weighed by the mean square of whole rows
    bool is_known = true;               // not read off the pointers: to a sanitizer their being null is no constant
};

constexpr Quantizer quantizer_of(Type type) {
    switch (type) {
        case kF32:
        case kF16:
        case kBF16:
            return {convert, nullptr, nullptr, false};
        case kQ4_0:
            return {round_symmetric<4>, quantize_symmetric<4, 1>, quantize_symmetric<4, 2>, true};
        case kQ4_1:
            return {round_ranged<4>, quantize_ranged<4, 1>, quantize_ranged<4, 2>, true};
        case kQ5_0:
            return {round_symmetric<5>, quantize_symmetric<5, 1>, quantize_symmetric<5, 2>, true};
        case kQ5_1:
            return {round_ranged<5>, quantize_ranged<5, 1>, quantize_ranged<5, 2>, true};
        case kQ8_0:
            return {round_q8_0, nullptr, nullptr, false};
        case kQ2_K:
            return {nullptr, quantize_q2_k, nullptr, false};
        case kQ3_K:
            return {nullptr, quantize_q3_k, nullptr, false};
        case kQ4_K:
            return {nullptr, quantize_q45_k<4>, nullptr, false};
        case kQ5_K:
            return {nullptr, quantize_q45_k<5>, nullptr, false};
        case kQ6_K:
            return {nullptr, quantize_q6_k, nullptr, false};
        case kIQ4_NL:
            return {nullptr, quantize_iq4_nl, nullptr, false};
        case kIQ4_XS:
            return {nullptr, quantize_iq4_xs, nullptr, false};
        case kMXFP4:
            return {nullptr, quantize_mxfp4, nullptr, false};
    }
    return {nullptr, nullptr, nullptr, false, false};  // not a type
}
static_assert(answers_every_row([](Type type) { return quantizer_of(type).is_known; }),
              "a type has a row in kTypes and no quantizer, or the reverse");

Outcome quantize(const Job& job, Tally& tally);
Outcome feedback(const FeedbackJob& job);
Outcome fit(const FitJob& job);
bool factor(const FactorJob& job);
void invert(const float* triangle, int64_t n_columns, float* upper);
Outcome dequantize(const uint8_t* source, Type type, float* destination, int64_t n_weights);

extern const Kernels kernels;

}  // namespace whisq::WHISQ_ISA
