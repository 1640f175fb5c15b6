// Python's side of the core: buffers in, buffers out, the GIL released. No arithmetic here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "dispatch.h"

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

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const whisq::Kernels* kernels : whisq::available_kernels()) names.emplace_back(kernels->name);
    return names;
}

std::tuple<int64_t, int64_t, int64_t> quantize(const std::string& isa, nb::handle source, int source_type,
                                               nb::handle destination, int type, int64_t n_columns,
                                               nb::handle importance) {
    const whisq::Kernels& kernels = kernels_named(isa);
    Buffer from(source, false), to(destination, true);
    const int64_t block = whisq::block_size(type), unit = whisq::block_bytes(source_type);
    require(block > 0 && unit > 0 && whisq::block_size(source_type) == 1, "unknown type");
    require(n_columns > 0 && n_columns % block == 0, "the columns are no whole number of blocks");
    require(from.size() % (unit * n_columns) == 0, "the source is no whole number of rows");
    const int64_t n_rows = from.size() / (unit * n_columns);
    require(to.size() == n_rows * (n_columns / block) * whisq::block_bytes(type), "the destination has another size");
    whisq::Tally tally;
    const auto run = [&](const float* weights) {
        nb::gil_scoped_release unlocked;
        kernels.quantize({from.data(), source_type, (uint8_t*)to.data(), type, n_rows, n_columns, weights}, tally);
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
    const int64_t block = whisq::block_size(type);
    require(block > 0, "unknown type");
    require(to.size() % (4 * block) == 0, "the destination is no whole number of blocks");
    const int64_t n_weights = to.size() / 4;
    require(from.size() == n_weights / block * whisq::block_bytes(type), "the source has another size");
    nb::gil_scoped_release unlocked;
    kernels.dequantize((const uint8_t*)from.data(), type, (float*)to.data(), n_weights);
}

void feedback(const std::string& isa, nb::handle weights, nb::handle factor, nb::handle gain, nb::handle moment,
              int type, int64_t n_columns, int n_sweeps, nb::handle levels, nb::handle units, nb::handle minimum_units,
              nb::handle scale_integers, nb::handle minimum_integers) {
    const whisq::Kernels& kernels = kernels_named(isa);
    Buffer w(weights, false), f(factor, false), g(gain, false), h(moment, false);
    Buffer l(levels, true), u(units, true), m(minimum_units, true), s(scale_integers, true), t(minimum_integers, true);
    const int64_t block = whisq::block_size(type), n_rows = n_columns > 0 ? w.size() / (4 * n_columns) : 0;
    require(block >= 32 && n_columns > 0 && n_columns % block == 0, "the columns are no whole number of blocks");
    require(w.size() == 4 * n_rows * n_columns, "the weights are no whole number of rows");
    require(f.size() == 4 * n_columns * n_columns && h.size() == f.size(), "factor or moment has another size");
    require(g.size() == 4 * n_columns, "gain has another size");
    const int64_t n_units = n_rows * (n_columns / block) * 4;
    const bool wide = type == whisq::kQ2_K || type == whisq::kQ3_K || type == whisq::kQ6_K;
    const int64_t n_subs = block == 32 ? 0 : n_units * (wide ? 16 : 8);
    require(l.size() == n_rows * n_columns && u.size() == n_units && m.size() == n_units, "an output has another size");
    require(s.size() >= n_subs && t.size() >= n_subs, "an output has another size");
    nb::gil_scoped_release unlocked;
    kernels.feedback({(const float*)w.data(), (const float*)f.data(), (const float*)g.data(), (const float*)h.data(),
                      type, n_rows, n_columns, n_sweeps, (int8_t*)l.data(), (float*)u.data(), (float*)m.data(),
                      (float*)s.data(), (float*)t.data()});
}

}  // namespace

NB_MODULE(_core, m) {
    m.def("instruction_sets", &instruction_sets);
    m.def("quantize", &quantize, nb::arg("isa"), nb::arg("source"), nb::arg("source_type"), nb::arg("destination"),
          nb::arg("type"), nb::arg("n_columns"), nb::arg("importance").none());
    m.def("feedback", &feedback, nb::arg("isa"), nb::arg("weights"), nb::arg("factor"), nb::arg("gain"),
          nb::arg("moment"), nb::arg("type"), nb::arg("n_columns"), nb::arg("n_sweeps"), nb::arg("levels"),
          nb::arg("units"), nb::arg("minimum_units"), nb::arg("scale_integers"), nb::arg("minimum_integers"));
    m.def("dequantize", &dequantize, nb::arg("isa"), nb::arg("source"), nb::arg("type"), nb::arg("destination"));
}
