// Vectors whose lanes are blocks: lane b of every vector belongs to block b of a group.
//
// A block's sums are then taken in ggml's order, element after element, while as many blocks as the instruction
// set has lanes go side by side. Written over the vector extensions that GCC and Clang share; each source that
// includes this is compiled once per instruction set with WHISQ_ISA (a namespace) and WHISQ_LANES defined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace whisq::WHISQ_ISA {

constexpr int kLanes = WHISQ_LANES;

typedef float F __attribute__((vector_size(kLanes * 4), aligned(kLanes * 4)));
typedef int32_t I __attribute__((vector_size(kLanes * 4), aligned(kLanes * 4)));

inline F splat(float value) { return F{} + value; }
inline I splat_int(int32_t value) { return I{} + value; }

// A comparison gives lanes of all ones where it holds.
inline F select(I mask, F yes, F no) { return mask ? yes : no; }
inline I select(I mask, I yes, I no) { return mask ? yes : no; }

// As C's (a < b ? a : b): where an operand is NaN the second is taken.
// The compilers do not all see the instruction in that expression.
inline F minimum(F a, F b) {
#if defined(__AVX512F__) && WHISQ_LANES == 16
    return (F)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__) && WHISQ_LANES == 8
    return (F)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && WHISQ_LANES == 4
    return (F)_mm_min_ps((__m128)a, (__m128)b);
#else
    return a < b ? a : b;
#endif
}

inline F maximum(F a, F b) {
#if defined(__AVX512F__) && WHISQ_LANES == 16
    return (F)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__) && WHISQ_LANES == 8
    return (F)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && WHISQ_LANES == 4
    return (F)_mm_max_ps((__m128)a, (__m128)b);
#else
    return a > b ? a : b;
#endif
}

inline I minimum(I a, I b) { return a < b ? a : b; }
inline I maximum(I a, I b) { return a > b ? a : b; }

inline I bits_of(F value) { return (I)value; }
inline F absolute(F value) { return (F)((I)value & 0x7fffffff); }
inline F to_float(I value) { return __builtin_convertvector(value, F); }
// As x86 converts: what int32 cannot hold becomes its smallest value.
inline I truncated(F value) {
#if defined(__SSE2__)
    return __builtin_convertvector(value, I);
#elif defined(__aarch64__) && WHISQ_LANES == 4
    // ARM saturates instead.
    return select(absolute(value) < 2147483648.f, (I)vcvtq_s32_f32((float32x4_t)value), splat_int(INT32_MIN));
#else
    const I fits = absolute(value) < 2147483648.f;
    return select(fits, __builtin_convertvector(select(fits, value, F{}), I), splat_int(INT32_MIN));
#endif
}

inline bool any(I mask) {
#if defined(__AVX512F__) && WHISQ_LANES == 16
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__) && WHISQ_LANES == 8
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__SSE2__) && WHISQ_LANES == 4
    return _mm_movemask_ps((__m128)mask) != 0;
#elif defined(__aarch64__) && WHISQ_LANES == 4
    return vmaxvq_u32((uint32x4_t)mask) != 0;
#else
    int32_t found = 0;
    for (int lane = 0; lane < kLanes; ++lane) found |= mask[lane];
    return found != 0;
#endif
}

inline F square_root(F value) {
#if defined(__AVX512F__) && WHISQ_LANES == 16
    return (F)_mm512_sqrt_ps((__m512)value);
#elif defined(__AVX2__) && WHISQ_LANES == 8
    return (F)_mm256_sqrt_ps((__m256)value);
#elif defined(__SSE2__) && WHISQ_LANES == 4
    return (F)_mm_sqrt_ps((__m128)value);
#elif defined(__aarch64__) && WHISQ_LANES == 4
    return (F)vsqrtq_f32((float32x4_t)value);
#else
    for (int lane = 0; lane < kLanes; ++lane) value[lane] = __builtin_sqrtf(value[lane]);
    return value;
#endif
}

// Adding 1.5 * 2^23 leaves the nearest integer (half to even) in the low bits of the sum.
constexpr float kRound = 12582912.f;

// The nearest integer, to the last bit as ggml takes it, infinities and NaN included.
inline I nearest(F value) { return (bits_of(value + kRound) & 0x007fffff) - 0x00400000; }
inline I nearest(F value, int low, int high) {
    return maximum(minimum(nearest(value), splat_int(high)), splat_int(low));
}

// The same as a float, for values that are known to stay within 2^22: half the operations. A zero may be negative.
inline F nearest_float(F value) {
#if defined(__AVX2__) && WHISQ_LANES == 8
    return (F)_mm256_round_ps((__m256)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__) && WHISQ_LANES == 4
    return (F)vrndnq_f32((float32x4_t)value);
#else
    return (value + kRound) - kRound;
#endif
}
inline F nearest_float(F value, float low, float high) {
    F rounded = nearest_float(value);
    return maximum(minimum(rounded, splat(high)), splat(low));
}

namespace detail {
// Units of lanes taken from a and b in turn, from lane `offset` on; the units stay whole.
template <int offset, int unit, size_t... index>
inline F interleave(F a, F b, std::index_sequence<index...>) {
    return __builtin_shufflevector(
        a, b, (offset + int(index / unit / 2 * unit + index % unit) + (index / unit % 2 ? kLanes : 0))...);
}

// The same with units of one lane inside every four lanes, which is one instruction where the other is several.
template <int offset, size_t... index>
inline F interleave_fours(F a, F b, std::index_sequence<index...>) {
    return __builtin_shufflevector(a, b, (offset + int(index / 4 * 4 + index % 4 / 2) + (index % 2 ? kLanes : 0))...);
}

template <typename Op>
inline F merge_fours(F a, F b, Op op) {
    constexpr auto all = std::make_index_sequence<kLanes>{};
    return op(interleave_fours<0>(a, b, all), interleave_fours<2>(a, b, all));
}
}  // namespace detail

// One number for each of kLanes vectors: op, which must not mind the order, over all lanes of rows[b] comes into lane
// b.
template <typename Op>
inline F across(F* rows, Op op) {
    constexpr auto all = std::make_index_sequence<kLanes>{};
    constexpr int kFours = kLanes / 4;
    F merged[kFours];
    for (int i = 0; i < kFours; ++i) {
        const F even = detail::merge_fours(rows[4 * i], rows[4 * i + 2], op);
        const F odd = detail::merge_fours(rows[4 * i + 1], rows[4 * i + 3], op);
        merged[i] = detail::merge_fours(even, odd, op);
    }
    for (int n = kFours / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; ++i) {
            merged[i] = op(detail::interleave<0, 4>(merged[i], merged[i + n], all),
                           detail::interleave<kLanes / 2, 4>(merged[i], merged[i + n], all));
        }
    }
    return merged[0];
}

// Transpose kLanes vectors in place: row r, lane c  <->  row c, lane r. First inside every four lanes, then fours
// whole.
inline void transpose(F* rows) {
    constexpr auto all = std::make_index_sequence<kLanes>{};
    constexpr int kFours = kLanes / 4;
    F fours[4][kFours], other[kFours];
    for (int i = 0; i < kFours; ++i) {
        const F* row = rows + 4 * i;
        const F low_even = detail::interleave_fours<0>(row[0], row[2], all);
        const F high_even = detail::interleave_fours<2>(row[0], row[2], all);
        const F low_odd = detail::interleave_fours<0>(row[1], row[3], all);
        const F high_odd = detail::interleave_fours<2>(row[1], row[3], all);
        fours[0][i] = detail::interleave_fours<0>(low_even, low_odd, all);
        fours[1][i] = detail::interleave_fours<2>(low_even, low_odd, all);
        fours[2][i] = detail::interleave_fours<0>(high_even, high_odd, all);
        fours[3][i] = detail::interleave_fours<2>(high_even, high_odd, all);
    }
    for (int k = 0; k < 4; ++k) {
        for (int round = 1; round < kFours; round *= 2) {
            for (int i = 0; i < kFours / 2; ++i) {
                const F first = fours[k][i], second = fours[k][i + kFours / 2];
                other[2 * i] = detail::interleave<0, 4>(first, second, all);
                other[2 * i + 1] = detail::interleave<kLanes / 2, 4>(first, second, all);
            }
            for (int i = 0; i < kFours; ++i) fours[k][i] = other[i];
        }
        for (int i = 0; i < kFours; ++i) rows[4 * i + k] = fours[k][i];
    }
}

}  // namespace whisq::WHISQ_ISA
