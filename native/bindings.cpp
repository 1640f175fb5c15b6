// Python's side of the core: buffers in, buffers out, the GIL released. No arithmetic here but that of buffers' sizes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "dispatch.h"
#include "self_test.h"
#include "triangle.h"

namespace nb = nanobind;

namespace {

// Any contiguous object that gives a buffer, without numpy: memoryview, bytearray, mmap, ndarray.
class Buffer {
   public:
    Buffer(nb::handle object, bool writable) {
        if (PyObject_GetBuffer(object.ptr(), &view_,
                               writable ? PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS : PyBUF_C_CONTIGUOUS))
            throw nb::python_error();
    }
    ~Buffer() { PyBuffer_Release(&view_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    void* data() const { return view_.buf; }
    int64_t size() const { return view_.len; }

   private:
    Py_buffer view_;
};

const whisq::Kernels& kernels_named(const std::string& name) {
    for (const whisq::Kernels* kernels : whisq::available_kernels())
        if (name == kernels->name) return *kernels;
    throw std::invalid_argument("no kernels for instruction set " + name);
}

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

const whisq::TypeRow& type_of(int number) {
    const whisq::TypeRow* row = whisq::find_type(number);
    if (row == nullptr) throw std::invalid_argument("no type " + std::to_string(number));
    return *row;
}

void require_kernel(whisq::Outcome outcome, const whisq::TypeRow& type) {
    if (outcome != whisq::Outcome::kDone)
        throw std::invalid_argument("no kernel for type " + std::to_string(type.type));
}

// Number, name, weights and bytes per block, sub-blocks, and whether feedback can round to it.
std::vector<std::tuple<int, std::string, int, int, int, bool>> types() {
    std::vector<std::tuple<int, std::string, int, int, int, bool>> rows;
    for (const whisq::TypeRow& row : whisq::kTypes)
        rows.emplace_back(row.type, row.name, row.block_size, row.block_bytes, row.subs.n, has_feedback(row));
    return rows;
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const whisq::Kernels* kernels : whisq::available_kernels()) names.emplace_back(kernels->name);
    return names;
}

// Type, method and hash of what the kernels of an instruction set write.
std::vector<std::tuple<std::string, std::string, std::string>> self_test(const std::string& isa) {
    std::vector<std::tuple<std::string, std::string, std::string>> rows;
    for (const whisq::SelfTestHash& one : whisq::self_test(kernels_named(isa)))
        rows.emplace_back(one.type, one.method, one.hash);
    return rows;
}

constexpr const char* kRowLength = "the row length is not a multiple of the block size";

// What a kernel answers, run without the GIL.
template <typename Run>
whisq::Outcome unlocked(const Run& run) {
    nb::gil_scoped_release released;
    return run();
}

std::tuple<int64_t, int64_t, int64_t> quantize(const std::string& isa, nb::handle source, int source_type,
                                               nb::handle destination, int type, int64_t n_columns,
                                               nb::handle importance) {
    const whisq::Kernels& kernels = kernels_named(isa);
    Buffer from(source, false), to(destination, true);
    const whisq::TypeRow &row = type_of(type), &source_row = type_of(source_type);
    require(is_dense(source_row), "the source is quantized");
    require(n_columns > 0 && n_columns % row.block_size == 0, kRowLength);
    require(from.size() % (source_row.block_bytes * n_columns) == 0, "the source is not a whole number of rows");
    const int64_t n_rows = from.size() / (source_row.block_bytes * n_columns);
    require(to.size() == n_rows * (n_columns / row.block_size) * row.block_bytes, "the destination has another size");
    whisq::Tally tally;
    const auto run = [&](const float* weights) {
        const whisq::Job job{from.data(), source_row.type, (uint8_t*)to.data(), row.type, n_rows, n_columns, weights};
        require_kernel(unlocked([&] { return kernels.quantize(job, tally); }), row);
    };
    if (importance.is_none()) {
        run(nullptr);
    } else {
        Buffer weights(importance, false);
        require(weights.size() == n_columns * 4, "the importance has another length than a row");
        run((const float*)weights.data());
    }
    return {tally.nan, tally.infinite, tally.overflow};
}

void dequantize(const std::string& isa, nb::handle source, int type, nb::handle destination) {
    const whisq::Kernels& kernels = kernels_named(isa);
    Buffer from(source, false), to(destination, true);
    const whisq::TypeRow& row = type_of(type);
    require(to.size() % (4 * row.block_size) == 0, "the destination is not a whole number of blocks");
    const int64_t n_weights = to.size() / 4;
    require(from.size() == n_weights / row.block_size * row.block_bytes, "the source has another size");
    const auto run = [&] {
        return kernels.dequantize((const uint8_t*)from.data(), row.type, (float*)to.data(), n_weights);
    };
    require_kernel(unlocked(run), row);
}

void feedback(const std::string& isa, nb::handle weights, nb::handle triangle, nb::handle inside, nb::handle gain,
              nb::handle moment, int type, int64_t n_columns, int n_sweeps, nb::handle levels, nb::handle units,
              nb::handle minimum_units, nb::handle scale_integers, nb::handle minimum_integers) {
    const whisq::Kernels& kernels = kernels_named(isa);
    Buffer w(weights, false), f(triangle, false), i(inside, false), g(gain, false), h(moment, false);
    Buffer l(levels, true), u(units, true), m(minimum_units, true), s(scale_integers, true), t(minimum_integers, true);
    const whisq::TypeRow& row = type_of(type);
    require(n_columns > 0 && n_columns % row.block_size == 0, kRowLength);
    const int64_t n_rows = w.size() / (4 * n_columns);
    require(w.size() == 4 * n_rows * n_columns, "the weights are not a whole number of rows");
    require(f.size() == 4 * whisq::tiled_size(n_columns) && h.size() == f.size(), "factor or moment has another size");
    require(i.size() == 4 * whisq::inside_size(n_columns) && g.size() == 4 * n_columns, "a factor has another size");
    const int64_t n_units = n_rows * (n_columns / row.block_size) * 4, n_subs = n_units * row.subs.n;
    require(l.size() == n_rows * n_columns && u.size() == n_units && m.size() == n_units, "an output has another size");
    require(s.size() >= n_subs && t.size() >= n_subs, "an output has another size");
    const whisq::FeedbackJob job{
        (const float*)w.data(),
        {(const float*)f.data(), (const float*)i.data(), (const float*)g.data(), (const float*)h.data()},
        row.type,
        n_rows,
        n_columns,
        n_sweeps,
        (int8_t*)l.data(),
        (float*)u.data(),
        (float*)m.data(),
        (float*)s.data(),
        (float*)t.data()};
    require_kernel(unlocked([&] { return kernels.feedback(job); }), row);
}

void fit(const std::string& isa, nb::handle weights, nb::handle importance, nb::handle plain, int type,
         int64_t n_columns, nb::handle levels, nb::handle units, nb::handle minimum_units, nb::handle scale_integers,
         nb::handle minimum_integers, nb::handle is_better) {
    const whisq::Kernels& kernels = kernels_named(isa);
    Buffer w(weights, false), v(importance, false), p(plain, false), b(is_better, true);
    Buffer l(levels, true), u(units, true), m(minimum_units, true), s(scale_integers, true), t(minimum_integers, true);
    const whisq::TypeRow& row = type_of(type);
    require(n_columns > 0 && n_columns % row.block_size == 0, kRowLength);
    const int64_t n_rows = w.size() / (4 * n_columns), n_blocks = n_rows * (n_columns / row.block_size);
    require(w.size() == 4 * n_rows * n_columns, "the weights are not a whole number of rows");
    require(v.size() == 4 * n_columns, "the importance has another length than a row");
    require(p.size() == w.size(), "the other rounding has another size than the weights");
    require(l.size() == n_rows * n_columns && u.size() == 4 * n_blocks && m.size() == 4 * n_blocks,
            "an output has another size");
    require(s.size() >= 4 * n_blocks * row.subs.n && t.size() >= 4 * n_blocks * row.subs.n && b.size() == n_blocks,
            "an output has another size");
    const whisq::FitJob job{(const float*)w.data(),
                            (const float*)v.data(),
                            (const float*)p.data(),
                            row.type,
                            n_rows,
                            n_columns,
                            (int8_t*)l.data(),
                            (float*)u.data(),
                            (float*)m.data(),
                            (float*)s.data(),
                            (float*)t.data(),
                            (uint8_t*)b.data()};
    require_kernel(unlocked([&] { return kernels.fit(job); }), row);
}

// Returns whether the moment is positive definite; None for the outputs: only that.
bool factor(const std::string& isa, nb::handle undamped, int64_t n_columns, float damping, nb::handle triangle,
            nb::handle inside, nb::handle gain, nb::handle moment) {
    const whisq::Kernels& kernels = kernels_named(isa);
    Buffer d(undamped, false);
    require(n_columns > 0 && d.size() == 4 * n_columns * n_columns, "the moment has another size");
    const auto run = [&](float* t, float* i, float* g, float* m) {
        nb::gil_scoped_release released;
        return kernels.factor({(const float*)d.data(), n_columns, damping, t, i, g, m});
    };
    if (triangle.is_none()) return run(nullptr, nullptr, nullptr, nullptr);
    Buffer t(triangle, true), i(inside, true), g(gain, true), m(moment, true);
    require(t.size() == 4 * whisq::tiled_size(n_columns) && m.size() == t.size(), "an output has another size");
    require(i.size() == 4 * whisq::inside_size(n_columns) && g.size() == 4 * n_columns, "an output has another size");
    return run((float*)t.data(), (float*)i.data(), (float*)g.data(), (float*)m.data());
}

void invert(const std::string& isa, nb::handle triangle, int64_t n_columns, nb::handle upper) {
    const whisq::Kernels& kernels = kernels_named(isa);
    Buffer t(triangle, false), u(upper, true);
    require(n_columns > 0 && t.size() == 4 * whisq::tiled_size(n_columns), "the triangle has another size");
    require(u.size() == 4 * n_columns * n_columns, "an output has another size");
    nb::gil_scoped_release released;
    kernels.invert((const float*)t.data(), n_columns, (float*)u.data());
}

void unpack_triangle(nb::handle packed, int64_t n, nb::handle matrix) {
    Buffer from(packed, false), to(matrix, true);
    require(n >= 0 && from.size() == 4 * (n * (n + 1) / 2), "the triangle has another size");
    require(to.size() == 4 * n * n, "the matrix has another size");
    nb::gil_scoped_release released;
    whisq::unpack_triangle(from.data(), n, (float*)to.data());
}

}  // namespace

NB_MODULE(_core, m) {
    m.def("instruction_sets", &instruction_sets);
    m.def("types", &types);
    m.def("self_test", &self_test, nb::arg("isa"));
    m.def("quantize", &quantize, nb::arg("isa"), nb::arg("source"), nb::arg("source_type"), nb::arg("destination"),
          nb::arg("type"), nb::arg("n_columns"), nb::arg("importance").none());
    m.def("feedback", &feedback, nb::arg("isa"), nb::arg("weights"), nb::arg("triangle"), nb::arg("inside"),
          nb::arg("gain"), nb::arg("moment"), nb::arg("type"), nb::arg("n_columns"), nb::arg("n_sweeps"),
          nb::arg("levels"), nb::arg("units"), nb::arg("minimum_units"), nb::arg("scale_integers"),
          nb::arg("minimum_integers"));
    m.def("fit", &fit, nb::arg("isa"), nb::arg("weights"), nb::arg("importance"), nb::arg("plain"), nb::arg("type"),
          nb::arg("n_columns"), nb::arg("levels"), nb::arg("units"), nb::arg("minimum_units"),
          nb::arg("scale_integers"), nb::arg("minimum_integers"), nb::arg("is_better"));
    m.def("factor", &factor, nb::arg("isa"), nb::arg("undamped"), nb::arg("n_columns"), nb::arg("damping"),
          nb::arg("triangle").none(), nb::arg("inside").none(), nb::arg("gain").none(), nb::arg("moment").none());
    m.def("dequantize", &dequantize, nb::arg("isa"), nb::arg("source"), nb::arg("type"), nb::arg("destination"));
    m.def("invert", &invert, nb::arg("isa"), nb::arg("triangle"), nb::arg("n_columns"), nb::arg("upper"));
    m.def("unpack_triangle", &unpack_triangle, nb::arg("packed"), nb::arg("n"), nb::arg("matrix"));
}
