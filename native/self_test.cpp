// What the hashes are of. Weights come from integers and powers of two alone, so that they are the same everywhere; NaN
// and infinity are left out, whose bits differ from processor to processor.
#include "self_test.h"

namespace whisq {
namespace {

constexpr int64_t kRows = 37, kColumns = 512;  // no multiple of any number of lanes; two super-blocks

class Numbers {
   public:
    explicit Numbers(uint64_t seed) : state_(seed) {}

    // SplitMix64: Steele, Lea and Flood 2014.
    uint64_t next() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    int below(int n) { return (int)(next() >> 33) % n; }
    // The sum of four uniform ones: nearly normal, of variance 1/3.
    float bell() {
        const uint64_t bits = next();
        const int sum =
            (int)(bits & 0xffff) + (int)(bits >> 16 & 0xffff) + (int)(bits >> 32 & 0xffff) + (int)(bits >> 48);
        return (float)(sum - 0x20000) / 65536.f;
    }

   private:
    uint64_t state_;
};

float power_of_two(int exponent) {
    float value = 1.f;
    for (; exponent > 0; --exponent) value *= 2.f;
    for (; exponent < 0; ++exponent) value /= 2.f;
    return value;
}

// What rows of one kind hold, so that every branch of a kernel has something to do.
float weight(Numbers& numbers, int kind) {
    const float bell = numbers.bell();
    switch (kind) {
        case 0:
            return 0.f;
        case 1:
            return numbers.below(2) ? 0.f : -0.f;
        case 2:
            return numbers.below(16) ? 0.f : bell;
        case 3:
            return bell * power_of_two(numbers.below(24) - 20);
        case 4:
            return (float)(numbers.below(16) - 8);
        case 5:
            return -0.375f;
        case 6:
            return bell * power_of_two(-127);
        case 7:
            return numbers.below(200) ? bell : 60000.f;
        case 8:
            return bell < 0.f ? -bell : bell;
        default:
            return bell / 16.f;
    }
}

std::vector<float> some_weights(int kinds) {
    Numbers numbers(1);
    std::vector<float> weights;
    for (int64_t row = 0; row < kRows; ++row)
        for (int64_t column = 0; column < kColumns; ++column)
            weights.push_back(weight(numbers, 9 - (int)(row % kinds)));
    return weights;
}

std::vector<float> some_importance() {
    Numbers numbers(2);
    std::vector<float> importance;
    for (int64_t column = 0; column < kColumns; ++column) {
        const float value = numbers.bell();
        importance.push_back(numbers.below(8) ? value * value : 0.f);
    }
    return importance;
}

// Inputs that share 32 directions, as a layer's do; every element is a whole number.
std::vector<float> some_moment() {
    constexpr int kDirections = 32;
    Numbers numbers(3);
    std::vector<float> inputs(kDirections * kColumns), moment(kColumns * kColumns);
    for (float& input : inputs) input = (float)(numbers.below(15) - 7);
    for (int64_t row = 0; row < kColumns; ++row) {
        for (int64_t column = 0; column < kColumns; ++column)
            for (int k = 0; k < kDirections; ++k)
                moment[row * kColumns + column] += inputs[k * kColumns + row] * inputs[k * kColumns + column];
        moment[row * kColumns + row] += 100.f;
    }
    return moment;
}

class Hash {
   public:
    // FNV-1a, 64 bits: Fowler, Noll and Vo.
    template <typename T>
    void add(const std::vector<T>& values) {
        const auto* bytes = (const unsigned char*)values.data();
        for (size_t i = 0; i < values.size() * sizeof(T); ++i) state_ = (state_ ^ bytes[i]) * 0x100000001b3u;
    }
    std::string digits() const {
        std::string text;
        for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[state_ >> shift & 15];
        return text;
    }

   private:
    uint64_t state_ = 0xcbf29ce484222325u;
};

class Run {
   public:
    explicit Run(const Kernels& kernels)
        : kernels_(kernels), weights_(some_weights(10)), importance_(some_importance()) {}

    std::vector<SelfTestHash> every_hash() {
        for (const TypeRow& type : kTypes) {
            quantize(type, "plain", nullptr);
            if (!is_dense(type)) quantize(type, "importance", importance_.data());
            decode(type);
        }
        feedback();
        for (const TypeRow& type : kTypes)
            if (!is_dense(type)) fit(type);
        return found_;
    }

   private:
    // Without a kernel, which no type lacks, nothing is written: another hash than that which is stored.
    std::vector<uint8_t> quantized(const void* source, Type from, const TypeRow& to, const float* importance) const {
        std::vector<uint8_t> bytes(kRows * kColumns / to.block_size * to.block_bytes);
        Tally tally;
        const Job job{source, from, bytes.data(), to.type, kRows, kColumns, importance};
        if (kernels_.quantize(job, tally) == Outcome::kNoKernel) bytes.clear();
        return bytes;
    }

    void quantize(const TypeRow& type, const char* method, const float* importance) {
        Hash hash;
        for (Type source : {kF32, kF16, kBF16}) {
            const auto dense = quantized(weights_.data(), kF32, row_of(source), nullptr);
            hash.add(quantized(dense.data(), source, type, importance));
        }
        found_.push_back({type.name, method, hash.digits()});
    }

    void decode(const TypeRow& type) {
        const auto bytes = quantized(weights_.data(), kF32, type, nullptr);
        std::vector<float> decoded(kRows * kColumns);
        if (kernels_.dequantize(bytes.data(), type.type, decoded.data(), kRows * kColumns) == Outcome::kNoKernel)
            decoded.clear();
        Hash hash;
        hash.add(decoded);
        found_.push_back({type.name, "decode", hash.digits()});
    }

    void feedback() {
        const std::vector<float> moment = some_moment(), rows = some_weights(2);
        std::vector<float> triangle(tiled_size(kColumns)), inside(inside_size(kColumns)), gain(kColumns);
        std::vector<float> damped(tiled_size(kColumns));
        Hash factors;
        if (kernels_.factor(
                {moment.data(), kColumns, 0.f, triangle.data(), inside.data(), gain.data(), damped.data()})) {
            std::vector<float> upper(kColumns * kColumns);
            kernels_.invert(triangle.data(), kColumns, upper.data());
            for (const auto* output : {&triangle, &inside, &gain, &damped, &upper}) factors.add(*output);
        }
        found_.push_back({row_of(kF32).name, "factor", factors.digits()});
        for (const TypeRow& type : kTypes) {
            if (!has_feedback(type)) continue;
            const int64_t units = kRows * kColumns / type.block_size, parts = units * type.subs.n;
            std::vector<int8_t> levels(kRows * kColumns);
            std::vector<float> unit(units), minimum_unit(units), scale(parts), minimum(parts);
            const FeedbackJob job{rows.data(),
                                  {triangle.data(), inside.data(), gain.data(), damped.data()},
                                  type.type,
                                  kRows,
                                  kColumns,
                                  2,
                                  levels.data(),
                                  unit.data(),
                                  minimum_unit.data(),
                                  scale.data(),
                                  minimum.data()};
            Hash hash;
            if (kernels_.feedback(job) == Outcome::kDone) {
                hash.add(levels);
                for (const auto* output : {&unit, &minimum_unit, &scale, &minimum}) hash.add(*output);
            }
            found_.push_back({type.name, "feedback", hash.digits()});
        }
    }

    void fit(const TypeRow& type) {
        const int64_t units = kRows * kColumns / type.block_size, parts = units * type.subs.n;
        const auto bytes = quantized(weights_.data(), kF32, type, nullptr);
        std::vector<float> plain(kRows * kColumns), unit(units), minimum_unit(units), scale(parts), minimum(parts);
        std::vector<int8_t> levels(kRows * kColumns);
        std::vector<uint8_t> is_better(units);
        const FitJob job{weights_.data(), importance_.data(), plain.data(), type.type,           kRows,
                         kColumns,        levels.data(),      unit.data(),  minimum_unit.data(), scale.data(),
                         minimum.data(),  is_better.data()};
        Hash hash;
        const auto decoded = kernels_.dequantize(bytes.data(), type.type, plain.data(), kRows * kColumns);
        if (decoded == Outcome::kDone && kernels_.fit(job) == Outcome::kDone) {
            hash.add(levels);
            hash.add(is_better);
            for (const auto* output : {&unit, &minimum_unit, &scale, &minimum}) hash.add(*output);
        }
        found_.push_back({type.name, "fit", hash.digits()});
    }

    const Kernels& kernels_;
    std::vector<float> weights_, importance_;
    std::vector<SelfTestHash> found_;
};

}  // namespace

std::vector<SelfTestHash> self_test(const Kernels& kernels) { return Run(kernels).every_hash(); }

}  // namespace whisq
