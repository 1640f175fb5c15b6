// The driver of one instruction set: loads groups of blocks, runs a type's kernel on each, counts what cannot be kept.
#include <cstring>

#include "families.h"

namespace whisq::WHISQ_ISA {
namespace {

// One value from a buffer that may begin at an odd address.
template <typename T>
T at(const void* source, int64_t index) {
    T value;
    std::memcpy(&value, (const char*)source + index * (int64_t)sizeof(T), sizeof value);
    return value;
}

// Whether `load`, and all that reads a source, here and in rounding.cpp, knows the type.
constexpr bool is_read(Type type) { return type == kF32 || type == kF16 || type == kBF16; }
static_assert(answers_every_row([](Type type) {
                  return is_read(type) || (row_index(type) >= 0 && !is_dense(row_of(type)));
              }),
              "a type without blocks has a row in kTypes and is not read as a source");

// Of a type that is not read: `quantize` has refused it.
[[noreturn]] void not_a_source() { __builtin_trap(); }

float one(const void* source, Type type, int64_t index) {
    switch (type) {
        case kF32:
            return at<float>(source, index);
        case kF16:
            return float_from_half(at<uint16_t>(source, index));
        case kBF16:
            return float_from_bfloat(at<uint16_t>(source, index));
        default:
            not_a_source();
    }
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

template <Type type>
void load_lanes_of(const void* source, const int64_t* begin, int length, int64_t ahead, F* to, Watch* watch) {
    constexpr int kWeightBytes = type == kF32 ? 4 : 2;
    for (int j = 0; j < length; j += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            __builtin_prefetch((const char*)source + (begin[lane] + j + ahead) * kWeightBytes);
            to[j + lane] = load(source, type, begin[lane] + j);
        }
        if (watch != nullptr)
            for (int lane = 0; lane < kLanes; ++lane) watch->add(to[j + lane]);
        transpose(to + j);
    }
}

// Load `length` elements of every lane's block, transposed: to[j] holds element j of all lanes. What comes next for a
// lane is `ahead` elements on, and is fetched while this is computed.
void load_lanes(const void* source, Type type, const int64_t* begin, int length, int64_t ahead, F* to, Watch* watch) {
    switch (type) {
        case kF32:
            return load_lanes_of<kF32>(source, begin, length, ahead, to, watch);
        case kF16:
            return load_lanes_of<kF16>(source, begin, length, ahead, to, watch);
        case kBF16:
            return load_lanes_of<kBF16>(source, begin, length, ahead, to, watch);
        default:
            not_a_source();
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
        load_lanes(job.source, job.source_type, begin, kLanes, kLanes, tile, nullptr);
        for (int j = 0; j < kLanes; ++j) sum += tile[j] * tile[j];
        for (int lane = 0; lane < kLanes; ++lane) begin[lane] += kLanes;
    }
    return sum / (float)job.n_columns;
}

// Without importance: the lanes of a group are blocks that follow each other.
void quantize_in_line(const Job& job, GroupKernel kernel, Watch& watch) {
    const TypeRow& type = row_of(job.type);
    const int64_t block = type.block_size, bytes = type.block_bytes;
    const int64_t n_blocks = job.n_rows * (job.n_columns / block);
    Group g;
    g.importance = nullptr;
    for (int64_t first = 0; first < n_blocks; first += kLanes) {
        int64_t begin[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t number = first + lane < n_blocks ? first + lane : n_blocks - 1;
            begin[lane] = number * block;
            g.out[lane] = first + lane < n_blocks ? job.destination + number * bytes : g.scratch;
        }
        load_lanes(job.source, job.source_type, begin, (int)block, kLanes * block, g.x, &watch);
        kernel(g);
    }
}

// With importance: the lanes are rows, at the same place of each, where they share it.
void quantize_by_rows(const Job& job, const Quantizer& quantizer, Watch& watch) {
    const TypeRow& type = row_of(job.type);
    const int64_t block = type.block_size, bytes = type.block_bytes, per_row = job.n_columns / block;
    Group g;
    for (int64_t row = 0; row < job.n_rows; row += kLanes) {
        if (quantizer.by_row_mean) g.row_mean_square = row_mean_squares(job, row);
        for (int64_t place = 0; place < per_row;) {
            const int64_t n = quantizer.two != nullptr && place + 2 <= per_row ? 2 : 1;
            int64_t begin[kLanes];
            for (int lane = 0; lane < kLanes; ++lane) {
                const bool is_row = row + lane < job.n_rows;
                const int64_t number = (is_row ? row + lane : job.n_rows - 1) * per_row + place;
                begin[lane] = number * block;
                g.out[lane] = is_row ? job.destination + number * bytes : g.scratch;
            }
            load_lanes(job.source, job.source_type, begin, (int)(n * block), n * block, g.x, &watch);
            g.importance = job.importance + place * block;
            (n == 2 ? quantizer.two : quantizer.one)(g);
            place += n;
        }
    }
}

void store_as(uint8_t* destination, Type type, int64_t index, F value) {
    if (type == kF32) {
        std::memcpy(destination + 4 * index, &value, sizeof value);
        return;
    }
    uint16_t halves[kLanes];
    if (type == kF16)
        halves_of(value, halves);
    else
        for (int lane = 0; lane < kLanes; ++lane) halves[lane] = bfloat_from_float(value[lane]);
    std::memcpy(destination + 2 * index, halves, sizeof halves);
}

}  // namespace

void convert(const Job& job, Watch& watch) {
    const int64_t n = job.n_rows * job.n_columns;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const F value = load(job.source, job.source_type, i);
        watch.add(value);
        store_as(job.destination, job.type, i, value);
    }
    for (; i < n; ++i) {
        const float value = one(job.source, job.source_type, i);
        watch.add(splat(value));
        const uint16_t half = job.type == kF16 ? half_from_float(value) : bfloat_from_float(value);
        if (job.type == kF32)
            std::memcpy(job.destination + 4 * i, &value, 4);
        else
            std::memcpy(job.destination + 2 * i, &half, 2);
    }
}

Outcome quantize(const Job& job, Tally& tally) {
    const Quantizer quantizer = quantizer_of(job.type);
    if (!is_read(job.source_type)) return Outcome::kNoKernel;
    Watch watch;
    if (quantizer.whole != nullptr && (job.importance == nullptr || quantizer.one == nullptr))
        quantizer.whole(job, watch);
    else if (quantizer.one == nullptr)
        return Outcome::kNoKernel;
    else if (job.importance == nullptr)
        quantize_in_line(job, quantizer.one, watch);
    else
        quantize_by_rows(job, quantizer, watch);
    if (any(watch.suspicious)) count(job, tally);
    return Outcome::kDone;
}

#define WHISQ_NAME_OF(isa) #isa
#define WHISQ_NAME(isa) WHISQ_NAME_OF(isa)

const Kernels kernels{WHISQ_NAME(WHISQ_ISA), kLanes, quantize, dequantize, feedback, fit, factor, invert};

}  // namespace whisq::WHISQ_ISA
