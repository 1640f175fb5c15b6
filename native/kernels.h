// The table of types, and what the bindings ask of every instruction set. Sizes are in weights or blocks. The kernels
// write into the caller's buffers only; of them feedback alone allocates: the rows that it is at work on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// Blocks are little-endian, and so is all that writes them.
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "whisq's core is for little-endian processors: x86-64, 64-bit ARM, RISC-V and others"
#endif

namespace whisq {

// Numbers of ggml's enum ggml_type. A type that is added here needs a row in kTypes, a quantizer (families.h) and a
// decoder (dequantize.cpp): the compiler says which is missing.
enum Type : int {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ2_K = 10,
    kQ3_K = 11,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kIQ4_NL = 20,
    kIQ4_XS = 23,
    kBF16 = 30,
    kMXFP4 = 39,
};

// The values that the indices of iq4_nl and iq4_xs stand for.
alignas(16) inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                      1,    13,   25,  38,  53,  69,  89,  113};

// Those of mxfp4, in halves: the scale is halved too, so that they are integers.
alignas(16) inline constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Half of an E8M0 scale, 2^(exponent - 128), subnormal for 0 and 1; 255, a NaN by the standard, is none to ggml.
static inline float mxfp4_scale(uint8_t exponent) {
    const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (uint32_t)(exponent - 1) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return scale;
}

// The values of a type whose stored integers are indices, in ascending order. Beyond n the last one is repeated and
// never reached, so that loops over all sixteen need not count.
struct Codebook {
    int n;
    float value[16];
    float threshold[16];  // halfway to the value before; infinite beyond n
    int8_t stored[16];    // the index of each
    // Thresholds for a search by halves: 2 6 10 14 part what is left in fours, 1 3 5 to 15 in twos.
    float threshold_of_two[8], threshold_of_one[8];
};

constexpr Codebook codebook(const int8_t (&by_index)[16]) {
    Codebook book{};
    for (int value = -128; value < 128; ++value) {
        for (int index = 0; index < 16; ++index) {
            if (by_index[index] != value) continue;
            book.value[book.n] = (float)value;
            book.stored[book.n++] = (int8_t)index;
            break;
        }
    }
    for (int k = book.n; k < 16; ++k) {
        book.value[k] = book.value[book.n - 1];
        book.stored[k] = book.stored[book.n - 1];
    }
    for (int k = 1; k < 16; ++k)
        book.threshold[k] = k < book.n ? (book.value[k - 1] + book.value[k]) / 2 : __builtin_inff();
    for (int k = 0; k < 4; ++k) book.threshold_of_two[k] = book.threshold[4 * k + 2];
    for (int k = 0; k < 8; ++k) book.threshold_of_one[k] = book.threshold[2 * k + 1];
    return book;
}

inline constexpr Codebook kIq4Codebook = codebook(kIq4Values), kMxfp4Codebook = codebook(kMxfp4Values);

// How a block's scale is written.
enum class ScaleAs { kHalf, kPowerOfTwo };

// How feedback rounds a weight to scale * l + offset. Without a default, so that every row has to say it.
struct Levels {
    float low, high;        // l is an integer from low to high, stored as l - low; equal: no feedback for this type
    bool has_minimum;       // there is an offset
    const Codebook* book;   // or null: l is book->value[from low to high], stored as book->stored of the same
    bool has_book = false;  // for constants: under its sanitizers GCC compares no pointer while it compiles
    ScaleAs scale_as;

    static constexpr Levels none() { return {0, 0, false, nullptr, ScaleAs::kHalf}; }
    static constexpr Levels integers(float low, float high) { return {low, high, false, nullptr, ScaleAs::kHalf}; }
    static constexpr Levels with_minimum(float high) { return {0, high, true, nullptr, ScaleAs::kHalf}; }
    static constexpr Levels from(const Codebook& book, ScaleAs scale_as) {
        Levels found{0, (float)(book.n - 1), false, &book, scale_as};
        found.has_book = true;
        return found;
    }

   private:
    constexpr Levels(float low, float high, bool has_minimum, const Codebook* book, ScaleAs scale_as)
        : low(low), high(high), has_minimum(has_minimum), book(book), scale_as(scale_as) {}
};

// The parts of a super-block, each with a scale that is an integer times the super-block's unit.
struct SubBlocks {
    int n;  // 0: the block has one scale, and no parts
    float scale_low,
        scale_high;  // range of the scales' integers; minimums, where there are such, go from 0 to the same
};

struct TypeRow {
    Type type;
    const char* name;  // ggml's
    int block_size;    // weights
    int block_bytes;
    Levels levels;
    SubBlocks subs;
};

inline constexpr TypeRow kTypes[] = {
    {kF32, "f32", 1, 4, Levels::none(), {}},
    {kF16, "f16", 1, 2, Levels::none(), {}},
    {kQ4_0, "q4_0", 32, 18, Levels::integers(-8, 7), {}},
    {kQ4_1, "q4_1", 32, 20, Levels::with_minimum(15), {}},
    {kQ5_0, "q5_0", 32, 22, Levels::integers(-16, 15), {}},
    {kQ5_1, "q5_1", 32, 24, Levels::with_minimum(31), {}},
    {kQ8_0, "q8_0", 32, 34, Levels::integers(-127, 127), {}},
    {kQ2_K, "q2_K", 256, 84, Levels::with_minimum(3), {16, 0, 15}},
    {kQ3_K, "q3_K", 256, 110, Levels::integers(-4, 3), {16, -32, 31}},
    {kQ4_K, "q4_K", 256, 144, Levels::with_minimum(15), {8, 0, 63}},
    {kQ5_K, "q5_K", 256, 176, Levels::with_minimum(31), {8, 0, 63}},
    {kQ6_K, "q6_K", 256, 210, Levels::integers(-32, 31), {16, -128, 127}},
    {kIQ4_NL, "iq4_nl", 32, 18, Levels::from(kIq4Codebook, ScaleAs::kHalf), {}},
    {kIQ4_XS, "iq4_xs", 256, 136, Levels::from(kIq4Codebook, ScaleAs::kHalf), {8, -32, 31}},
    {kBF16, "bf16", 1, 2, Levels::none(), {}},
    {kMXFP4, "mxfp4", 32, 17, Levels::from(kMxfp4Codebook, ScaleAs::kPowerOfTwo), {}},
};

// What follows is static: this header is compiled for every instruction set, and a function that they shared might be
// the one with instructions that the CPU lacks.

static inline constexpr bool is_dense(const TypeRow& type) { return type.block_size == 1; }
static inline constexpr bool has_feedback(const TypeRow& type) { return type.levels.low != type.levels.high; }

// Weights that share a scale.
static inline constexpr int sub_size(const TypeRow& type) {
    return type.subs.n == 0 ? type.block_size : type.block_size / type.subs.n;
}

constexpr int kTypeCount = sizeof kTypes / sizeof kTypes[0];

// Where a type's row is in the table; -1 where there is none.
static inline constexpr int row_index(int number) {
    for (int index = 0; index < kTypeCount; ++index)
        if (kTypes[index].type == number) return index;
    return -1;
}

// The row of a type, or null where there is none.
static inline constexpr const TypeRow* find_type(int number) {
    return row_index(number) < 0 ? nullptr : &kTypes[row_index(number)];
}

// The same for a type that is known to have one.
static inline constexpr const TypeRow& row_of(Type type) { return kTypes[row_index(type)]; }

static inline constexpr bool rows_are_sound() {
    for (int index = 0; index < kTypeCount; ++index) {
        const TypeRow& row = kTypes[index];
        if (row_index(row.type) != index) return false;  // one row for each type
        if (!is_dense(row) && row.block_size != 32 && row.block_size != 256) return false;
        // Feedback keeps the weights of a sub-block in arrays of 32, and the scales of a super-block in arrays of 16.
        if (row.subs.n > 16 || sub_size(row) > 32 ||
            sub_size(row) * (row.subs.n == 0 ? 1 : row.subs.n) != row.block_size)
            return false;
        if (row.subs.n != 0 && row.subs.scale_low == row.subs.scale_high) return false;
        if (has_feedback(row) && is_dense(row)) return false;
    }
    return true;
}
static_assert(rows_are_sound());

// True when a switch over the types has an answer for exactly those that have a row.
template <typename Answer>
static inline constexpr bool answers_every_row(Answer has_answer) {
    for (int number = 0; number < 256; ++number)
        if (has_answer((Type)number) != (row_index(number) >= 0)) return false;
    return true;
}

struct Tally {
    int64_t nan = 0, infinite = 0, overflow = 0;
};

struct Job {
    const void* source;    // n_rows * n_columns weights, row after row
    Type source_type;      // dense
    uint8_t* destination;  // n_rows * row bytes
    Type type;
    int64_t n_rows, n_columns;
    const float* importance;  // n_columns values, or null
};

// The columns of a panel, inside which rounding looks at every block: a multiple of every type's block.
constexpr int64_t kPanel = 256;

// What feedback needs of a layer's inputs, see factor.cpp. Square matrices lie in tiles of eight columns: column c of
// row r at [c / 8][r][c % 8]. Their sizes are in the functions below.
struct Prepared {
    const float* triangle;  // V of H = V diag(gain) V^T, unit upper triangular; below the diagonal its mirror image
    const float* inside;    // of every panel's diagonal block of V the inverse, strictly above the diagonal
    const float* gain;      // [n_columns]
    const float* moment;    // H, the damped second moment
};

static inline constexpr int64_t panels(int64_t n_columns) { return (n_columns + kPanel - 1) / kPanel; }
static inline constexpr int64_t tiled_size(int64_t n_columns) { return (n_columns + 7) / 8 * 8 * n_columns; }
static inline constexpr int64_t inside_size(int64_t n_columns) { return panels(n_columns) * kPanel * kPanel; }

// Rounding with error feedback; sizes of the outputs are in the comments. Types with blocks of 32 have one unit per
// block and no integers; types with super-blocks have one unit per super-block, and integers for each sub-block.
struct FeedbackJob {
    const float* weights;  // [n_rows, n_columns]
    Prepared prepared;
    Type type;
    int64_t n_rows, n_columns;
    int n_sweeps;             // of the second pass
    int8_t* levels;           // [n_rows, n_columns] stored integers
    float* units;             // [n_rows, units]
    float* minimum_units;     // [n_rows, units] offset of a ranged block, or unit of the sub-blocks' minimums
    float* scale_integers;    // [n_rows, sub-blocks]
    float* minimum_integers;  // [n_rows, sub-blocks]
};

// Rounding to what is nearest to the weights (fit.cpp); units and integers are those of feedback.
struct FitJob {
    const float* weights;     // [n_rows, n_columns]
    const float* importance;  // [n_columns]
    const float* plain;       // [n_rows, n_columns] what another rounding of the weights decodes to
    Type type;
    int64_t n_rows, n_columns;
    int8_t* levels;
    float *units, *minimum_units, *scale_integers, *minimum_integers;
    uint8_t* is_better;  // [n_rows, blocks] whether the block found is nearer than the other's
};

// What is prepared for feedback, as in Prepared; without `triangle` it is only found out whether that can be.
struct FactorJob {
    const float* undamped;  // [n_columns, n_columns] second moment, row by row
    int64_t n_columns;
    float damping;  // what is added to its diagonal
    float *triangle, *inside, *gain, *moment;
};

// Where there is no kernel nothing has been written.
enum class [[nodiscard]] Outcome { kDone, kNoKernel };

struct Kernels {
    const char* name;
    int lanes;  // of 32 bits
    // The caller has checked sizes.
    Outcome (*quantize)(const Job&, Tally&);
    Outcome (*dequantize)(const uint8_t* source, Type type, float* destination, int64_t n_weights);
    Outcome (*feedback)(const FeedbackJob&);
    Outcome (*fit)(const FitJob&);
    bool (*factor)(const FactorJob&);  // false where the moment is not positive definite
    // The inverse of V, row by row, from Prepared's triangle.
    void (*invert)(const float* triangle, int64_t n_columns, float* upper);
};

}  // namespace whisq
