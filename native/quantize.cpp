// The driver of one instruction set: loads groups of blocks, runs a type's kernel on each, counts what cannot be kept.
#include <cstring>

#include "families.h"

namespace whisq::WHISQ_ISA {
namespace {

// Lanes whose value f16 cannot hold: beyond its range, infinite, or NaN.
struct Watch {
    I strange = I{};
    void see(F value) { strange |= ~(absolute(value) <= kHalfMax); }
};

// One value from a buffer that may begin at an odd address.
template <typename T>
T at(const void* source, int64_t index) {
    T value;
    std::memcpy(&value, (const char*)source + index * (int64_t)sizeof(T), sizeof value);
    return value;
}

float one(const void* source, int type, int64_t index) {
    if (type == kF16) return float_from_half(at<uint16_t>(source, index));
    if (type == kBF16) return float_from_bfloat(at<uint16_t>(source, index));
    return at<float>(source, index);
}

// Only when a watch saw something: which kind it was.
void count(const Job& job, Tally& tally) {
    for (int64_t i = 0; i < job.n_rows * job.n_columns; ++i) {
        const uint32_t magnitude = float_bits(one(job.source, job.source_type, i)) & 0x7fffffff;
        tally.nan += magnitude > 0x7f800000;
        tally.infinite += magnitude == 0x7f800000;
        tally.overflow += magnitude > 0x477fe000 && magnitude < 0x7f800000;
    }
}

// Load `length` elements of every lane's block, transposed: to[j] holds element j of all lanes.
void load_lanes(const void* source, int type, const int64_t* begin, int length, F* to, Watch* watch) {
    for (int j = 0; j < length; j += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) to[j + lane] = load(source, type, begin[lane] + j);
        if (watch != nullptr)
            for (int lane = 0; lane < kLanes; ++lane) watch->see(to[j + lane]);
        transpose(to + j);
    }
}

// Mean of x^2 over whole rows, in ggml's order; lane r holds that of row first + r.
F row_mean_squares(const Job& job, int64_t first) {
    int64_t begin[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t row = first + lane < job.n_rows ? first + lane : job.n_rows - 1;
        begin[lane] = row * job.n_columns;
    }
    F sum = F{}, tile[kLanes];
    for (int64_t column = 0; column < job.n_columns; column += kLanes) {
        load_lanes(job.source, job.source_type, begin, kLanes, tile, nullptr);
        for (int j = 0; j < kLanes; ++j) sum += tile[j] * tile[j];
        for (int lane = 0; lane < kLanes; ++lane) begin[lane] += kLanes;
    }
    return sum / (float)job.n_columns;
}

// Where the blocks of a range of rows are, group by group.
struct Walk {
    const Job& job;
    GroupKernel kernel;
    int block, bytes;
    Watch watch;

    void group(Group& g, int64_t first, int64_t last, const F* row_means, int64_t first_row) {
        const int64_t per_row = job.n_columns / block;
        int64_t begin[kLanes], column[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t number = first + lane < last ? first + lane : last - 1;
            begin[lane] = number * block;
            column[lane] = number % per_row * block;
            g.out[lane] = first + lane < last ? job.destination + number * bytes : g.scratch;
            if (row_means != nullptr) g.row_mean_square[lane] = (*row_means)[number / per_row - first_row];
        }
        load_lanes(job.source, job.source_type, begin, block, g.x, &watch);
        if (g.has_importance) load_lanes(job.importance, kF32, column, block, g.importance, nullptr);
        kernel(g);
    }
};

void quantize_blocks(const Job& job, GroupKernel kernel, Tally& tally) {
    Walk walk{job, kernel, block_size(job.type), block_bytes(job.type), {}};
    Group g;
    g.has_importance = job.importance != nullptr && job.type != kQ8_0;
    const int64_t per_row = job.n_columns / walk.block, n_blocks = job.n_rows * per_row;
    if (g.has_importance && walk.block == 32 && job.type != kIQ4_NL) {
        for (int64_t row = 0; row < job.n_rows; row += kLanes) {
            const F means = row_mean_squares(job, row);
            const int64_t last = (row + kLanes < job.n_rows ? row + kLanes : job.n_rows) * per_row;
            for (int64_t first = row * per_row; first < last; first += kLanes) walk.group(g, first, last, &means, row);
        }
    } else {
        for (int64_t first = 0; first < n_blocks; first += kLanes) walk.group(g, first, n_blocks, nullptr, 0);
    }
    if (any(walk.watch.strange)) count(job, tally);
}

void store_as(uint8_t* destination, int type, int64_t index, F value) {
    if (type == kF32) {
        std::memcpy(destination + 4 * index, &value, sizeof value);
        return;
    }
    uint16_t halves[kLanes];
#if defined(__AVX512F__) && WHISQ_LANES == 16
    if (type == kF16) {
        _mm256_storeu_si256((__m256i*)(destination + 2 * index),
                            _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#elif defined(__F16C__) && WHISQ_LANES == 8
    if (type == kF16) {
        _mm_storeu_si128((__m128i*)(destination + 2 * index),
                         _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#endif
    for (int lane = 0; lane < kLanes; ++lane)
        halves[lane] = type == kF16 ? half_from_float(value[lane]) : bfloat_from_float(value[lane]);
    std::memcpy(destination + 2 * index, halves, sizeof halves);
}

void convert(const Job& job, Tally& tally) {
    const int64_t n = job.n_rows * job.n_columns;
    Watch watch;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const F value = load(job.source, job.source_type, i);
        watch.see(value);
        store_as(job.destination, job.type, i, value);
    }
    for (; i < n; ++i) {
        const float value = one(job.source, job.source_type, i);
        watch.see(splat(value));
        const uint16_t half = job.type == kF16 ? half_from_float(value) : bfloat_from_float(value);
        if (job.type == kF32)
            std::memcpy(job.destination + 4 * i, &value, 4);
        else
            std::memcpy(job.destination + 2 * i, &half, 2);
    }
    if (any(watch.strange)) count(job, tally);
}

}  // namespace

bool quantize(const Job& job, Tally& tally) {
    if (job.source_type != kF32 && job.source_type != kF16 && job.source_type != kBF16) return false;
    if (job.type == kF32 || job.type == kF16 || job.type == kBF16) {
        convert(job, tally);
        return true;
    }
    GroupKernel kernel = legacy_kernel(job.type);
    if (kernel == nullptr) kernel = k_kernel(job.type);
    if (kernel == nullptr) kernel = iq4_kernel(job.type);
    if (kernel == nullptr) return false;
    if (job.n_rows > 0) quantize_blocks(job, kernel, tally);
    return true;
}

#define WHISQ_NAME_OF(isa) #isa
#define WHISQ_NAME(isa) WHISQ_NAME_OF(isa)

const Kernels kernels{WHISQ_NAME(WHISQ_ISA), quantize, dequantize, feedback};

}  // namespace whisq::WHISQ_ISA
