"""Every row of ``whisq.types`` has all its parts; a type that lacks one of them is a red test that names the part."""

from dataclasses import replace

import numpy as np
import pytest

from whisq import kernels
from whisq.errors import KernelError
from whisq.kernels import reference
from whisq.kernels.blocks import FORMATS, format_of
from whisq.kernels.core_types import CORE_TYPES
from whisq.kernels.feedback import Outputs, factor_of, feedback_parts, quantize_with_feedback, run_core
from whisq.types import TYPES

ISAS = kernels.available_isas()
every_type = pytest.mark.parametrize("kind", TYPES.values(), ids=str)


@every_type
def test_the_core_has_the_type_with_the_same_sizes(kind):
    row = CORE_TYPES[kind.ggml_type]
    assert (row.name, row.block_size, row.block_bytes) == (kind.name, kind.block_size, kind.block_bytes)


def test_the_core_has_no_type_that_python_lacks():
    assert set(CORE_TYPES) == {kind.ggml_type for kind in TYPES.values()}


@pytest.mark.parametrize("isa", ISAS)
@every_type
def test_it_has_a_quantizer_and_a_decoder_that_write_every_byte(kind, isa):
    weights = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    for importance in (None, np.ones(512, np.float32)):
        blocks = []
        for filled_with in (0x00, 0xFF):
            into = np.full(3 * kind.row_bytes(512), filled_with, np.uint8)
            kernels.quantize_rows(weights.reshape(-1), TYPES["f32"], into, kind, 512, importance, isa=isa)
            blocks.append(into)
        assert np.array_equal(*blocks)
    numbers = []
    for filled_with in (0.0, 1.0):
        into = np.full((3, 512), filled_with, np.float32)
        kernels.dequantize_into(blocks[0], kind, into.reshape(-1), isa=isa)
        numbers.append(into)
    assert np.array_equal(*numbers)
    assert np.abs(numbers[0] - weights).max() < np.abs(weights).max() / 2


def test_types_with_blocks_have_a_definition_and_no_other_has():
    assert set(FORMATS) == {kind.name for kind in TYPES.values() if kind.is_quantized}
    with pytest.raises(KernelError, match="f16 has no blocks"):
        format_of(TYPES["f16"])


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.is_quantized], ids=str)
def test_its_definition_packs_what_it_unpacks(kind):
    blocks = kernels.quantize(np.random.default_rng(0).standard_normal((50, 512)).astype(np.float32), kind)
    # Any bytes: a field that unpack reads from elsewhere than pack writes it is seen even where ggml leaves zeros.
    blocks = np.concatenate([blocks, np.random.default_rng(1).integers(0, 256, blocks.shape, np.uint8)])
    blocks = blocks.reshape(-1, kind.block_bytes)
    parts = format_of(kind).unpack(blocks)
    usable = np.isfinite(parts.unit) & (True if parts.minimum is None else np.isfinite(parts.minimum))
    assert usable.mean() > 0.9
    assert np.array_equal(format_of(kind).pack(parts)[usable], blocks[usable])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.is_quantized], ids=str)
def test_its_definition_decodes_as_the_core_does(kind, isa):
    blocks = np.random.default_rng(2).integers(0, 256, (40, 2 * kind.block_bytes), np.uint8)
    decoded = kernels.dequantize(blocks, kind, (40, 2 * kind.block_size), isa=isa)
    assert np.array_equal(reference.dequantize(blocks, kind), decoded, equal_nan=True)


@every_type
def test_it_has_feedback_or_says_that_it_has_none(kind):
    weights, factor = np.ones((2, 256), np.float32), factor_of(np.eye(256))
    if kernels.has_feedback(kind):
        assert quantize_with_feedback(weights, kind, factor).shape == (2, kind.row_bytes(256))
    else:
        with pytest.raises(KernelError, match=f"no rounding with feedback for {kind}") as caught:
            quantize_with_feedback(weights, kind, factor)
        assert "q4_0" in caught.value.hint
        with pytest.raises(KernelError, match="no rounding with feedback"):
            feedback_parts(weights, kind, factor)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("number", range(64))
def test_the_core_answers_for_a_type_or_refuses_it(number, isa):
    # Outputs come uninitialised: what a kernel does not know must not look as if it had been done.
    weights, factor = np.ones((1, 256), np.float32), factor_of(np.eye(256))
    known = CORE_TYPES.get(number)
    found = Outputs.zeros(1, 256, known.block_size if known else 32, known.sub_blocks if known else 0)
    found.levels[:] = 99
    if known and known.has_feedback:
        run_core(weights, factor, number, found, isa=isa, sweeps=0)
        assert (found.levels != 99).all()
    else:
        with pytest.raises(KernelError, match=f"no kernel for type {number}" if known else f"no type {number}"):
            run_core(weights, factor, number, found, isa=isa, sweeps=0)
        assert (found.levels == 99).all()


UNKNOWN = replace(TYPES["q4_0"], name="q9", ggml_type=63)


def test_what_the_core_refuses_is_a_kernel_error_everywhere():
    weights = np.ones((2, 256), np.float32)
    with pytest.raises(KernelError, match="q9: no type 63"):
        kernels.dequantize(bytes(2 * UNKNOWN.row_bytes(256)), UNKNOWN, (2, 256), threads=2)
    with pytest.raises(KernelError, match="f32 -> q9, rows of 256: no type 63"):
        kernels.quantize(weights, UNKNOWN)
    with pytest.raises(KernelError, match="no rounding with feedback for q9"):
        feedback_parts(weights, UNKNOWN, factor_of(np.eye(256)))


def test_feedback_refuses_what_does_not_fit():
    weights, kind = np.ones((2, 256), np.float32), TYPES["q4_0"]
    with pytest.raises(KernelError, match="feedback on rows of 256: factor or moment has another size"):
        feedback_parts(weights, kind, factor_of(np.eye(32)))
    with pytest.raises(KernelError, match="instruction set 'mmx' is not available"):
        feedback_parts(weights, kind, factor_of(np.eye(256)), isa="mmx")
