"""The kernels give ggml's bytes: every type, instruction set, source, thread count, with and without importance."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support import oracle
from tests.support.edge_cases import EDGES, QUANTIZED, importances
from whisq import kernels, open_model
from whisq.errors import KernelError
from whisq.types import BF16, F16, F32, TYPES

ISAS = kernels.available_isas()
every_type = pytest.mark.parametrize("kind", QUANTIZED, ids=str)
every_isa = pytest.mark.parametrize("isa", ISAS)


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@every_isa
@every_type
@pytest.mark.parametrize("name", EDGES)
def test_edge_cases(kind, isa, name):
    for label, importance in importances(EDGES[name].shape[1]).items():
        ours = kernels.quantize(EDGES[name], kind, importance=importance, isa=isa)
        assert np.array_equal(ours, oracle.quantize(EDGES[name], kind, importance)), label


@every_isa
@every_type
def test_row_counts_around_the_lanes(kind, isa):
    for columns in (256, 768) if kind.block_size == 256 else (32, 96, 384):
        for importance in (None, importances(columns)["positive"]):
            for rows in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33):
                weights = normal(rows, columns, rows)
                ours = kernels.quantize(weights, kind, importance=importance, isa=isa)
                assert np.array_equal(ours, oracle.quantize(weights, kind, importance)), (rows, columns)


@every_isa
@every_type
def test_sources_of_every_type_read_directly(kind, isa):
    weights = normal(21, 512)
    halves = weights.astype(np.float16)
    brains = (weights.view(np.uint32) >> 16).astype(np.uint16)
    widened = (brains.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(kernels.quantize(halves, kind, isa=isa), oracle.quantize(halves.astype(np.float32), kind))
    assert np.array_equal(kernels.quantize(brains, kind, source_type="bf16", isa=isa), oracle.quantize(widened, kind))


@every_isa
@every_type
def test_unaligned_buffers(kind, isa):
    weights = normal(19, 512)
    wanted = oracle.quantize(weights, kind)
    for shift in (1, 2, 4, 7):
        source = np.zeros(weights.nbytes + shift, np.uint8)
        source[shift:] = weights.reshape(-1).view(np.uint8)
        result = np.zeros(wanted.nbytes + shift, np.uint8)
        kernels.quantize_rows(source[shift:], F32, result[shift:], kind, 512, None, isa=isa)
        assert np.array_equal(result[shift:], wanted.reshape(-1))


@every_isa
@every_type
def test_the_same_bytes_with_any_number_of_threads(kind, isa):
    weights = normal(37, 512)
    importance = importances(512)["positive"]
    for given_importance in (None, importance):
        wanted = kernels.quantize(weights, kind, importance=given_importance, isa=isa)
        for threads in (2, 3, 5, 64):
            got = kernels.quantize(weights, kind, importance=given_importance, threads=threads, isa=isa)
            assert np.array_equal(got, wanted)


@every_isa
@every_type
def test_real_weights(kind, isa, tiny_en_folder):
    with open_model(tiny_en_folder) as model:
        for name in (
            "encoder.blocks.0.mlp.2.weight",
            "decoder.blocks.3.mlp.2.weight",
            "encoder.blocks.1.attn.key.weight",
        ):
            tensor = model[name]
            if kind.fits(tensor.n_columns):
                weights = np.frombuffer(model.rows(tensor), np.float16).reshape(tensor.shape)
                wanted = oracle.quantize(weights.astype(np.float32), kind)
                assert np.array_equal(kernels.quantize(weights, kind, threads=2, isa=isa), wanted)


@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_floats(kind, data):
    element = st.floats(-65504, 65504, width=32)
    rows = data.draw(st.integers(1, 18))
    weights = data.draw(hnp.arrays(np.float32, (rows, kind.block_size), elements=element, fill=element))
    isa = data.draw(st.sampled_from(ISAS))
    assert np.array_equal(kernels.quantize(weights, kind, isa=isa), oracle.quantize(weights, kind))


@every_isa
@pytest.mark.parametrize("target", ["f32", "f16", "bf16"])
@settings(max_examples=50, deadline=None)
@given(weights=hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 70)),
                          elements=st.floats(width=32, allow_nan=False)))  # fmt: skip
def test_dense_targets(isa, target, weights):
    ours = kernels.quantize(weights, target, isa=isa).reshape(-1)
    with np.errstate(over="ignore"):
        halves = weights.astype(np.float16)
    bits = weights.view(np.uint32).astype(np.uint64)
    brains = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    wanted = {"f32": weights, "f16": halves, "bf16": brains}[target]
    assert np.array_equal(ours, np.ascontiguousarray(wanted).reshape(-1).view(np.uint8))


@every_isa
def test_every_half_is_widened_exactly(isa):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    keep = ~np.isnan(halves)
    widened = kernels.dequantize(halves, F16, halves.shape, isa=isa)
    assert np.array_equal(widened[keep], halves.astype(np.float32)[keep])
    assert np.isnan(widened[~keep]).all()
    back = kernels.quantize(widened.reshape(1, -1), F16, isa=isa).view(np.uint16).reshape(-1)
    assert np.array_equal(back[keep], np.arange(1 << 16, dtype=np.uint16)[keep])


@every_isa
@pytest.mark.parametrize("kind", [F32, F16, BF16, TYPES["q4_0"], TYPES["q6_K"]], ids=str)
def test_the_tally(kind, isa):
    weights = normal(6, 256)
    weights[0, 3] = weights[5, 255] = np.nan
    weights[1, 0] = np.inf
    weights[2, :4] = [-np.inf, 65504, -65505, 1e30]
    into = np.empty(6 * kind.row_bytes(256), np.uint8)
    tally = kernels.quantize_rows(weights.reshape(-1), F32, into, kind, 256, None, isa=isa)
    assert tally == (2, 2, 2)


def test_wrong_arguments():
    weights = normal(4, 64)
    for call, message in (
        (lambda: kernels.quantize(weights, "q4_K"), "do not fit q4_K"),
        (lambda: kernels.quantize(weights.astype(np.float64), "q4_0"), "dtype float64"),
        (lambda: kernels.quantize(weights.view(np.uint32), "q4_0"), "dtype uint32"),
        (lambda: kernels.quantize(weights, "q4_0", source_type="bf16"), "source_type bf16"),
        (lambda: kernels.quantize(weights.reshape(-1), "q4_0"), r"shape \[256\]"),
        (lambda: kernels.quantize(weights, "q4_0", importance=np.ones(63, np.float32)), r"expected \[64\]"),
        (lambda: kernels.quantize(weights, "q4_0", threads=0), "threads is 0"),
        (lambda: kernels.quantize(weights, "q4_0", isa="mmx"), "instruction set 'mmx'"),
        (lambda: kernels.quantize_rows(weights, F32, np.empty(10, np.uint8), TYPES["q4_0"], 64, None), "another size"),
        (lambda: kernels.quantize_rows(weights, F32, bytes(144), TYPES["q4_0"], 64, None), "not writable"),
        (
            lambda: kernels.quantize_rows(weights[:, ::2], F32, np.empty(72, np.uint8), TYPES["q4_0"], 32, None),
            "contiguous",
        ),
        (lambda: kernels.quantize_rows(bytes(10), F32, bytearray(18), TYPES["q4_0"], 32, None), "whole number of rows"),
        (lambda: kernels.dequantize(bytes(17), "q4_0", (1, 32)), "17 bytes cannot hold a q4_0 matrix"),
        (lambda: kernels.dequantize(bytes(18), "q4_0", (2, 16)), "blocks of 32"),
    ):
        with pytest.raises(KernelError, match=message):
            call()


def test_the_hint_for_a_misfit_names_every_type_that_fits_and_no_other():
    for columns in (64, 100):
        with pytest.raises(KernelError) as caught:
            kernels.quantize(normal(4, columns), "q4_K")
        named = caught.value.hint.partition(": ")[2].split()
        fitting = [kind.name for kind in QUANTIZED if kind.fits(columns)]
        assert named == (fitting or ["f32", "f16", "bf16"])


def forced(name):
    code = "from whisq import kernels; print(kernels.active_isa())"
    environment = {**os.environ, kernels.FORCE_ISA_VARIABLE: name}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@every_isa
def test_an_instruction_set_can_be_forced(isa):
    assert forced(isa).stdout.strip() == isa


def test_one_that_the_cpu_lacks_is_refused():
    done = forced("neon" if "neon" not in ISAS else "avx2")
    assert done.returncode != 0
    assert "is not available on this machine" in done.stderr
