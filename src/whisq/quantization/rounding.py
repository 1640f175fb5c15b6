"""The methods of rounding that can be asked for, and what a whole matrix is after one.

One more is a class like those below, in a file of its own, and its value in ``METHODS``: docs/adding-a-method.md has an
example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whisq import kernels
from whisq.calibration.inputs import EMBEDDING_INPUT, input_of
from whisq.errors import CalibrationError, PlanError, WeightError
from whisq.quantization.fit import Fit
from whisq.quantization.method import (
    GGML,
    Method,
    Needs,
    Rounded,
    UnfitWeightsError,
    Weights,
    ggml_blocks,
    hint_for,
)
from whisq.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisq.calibration import Calibration
    from whisq.kernels import Buffer
    from whisq.model import Model, TensorRef
    from whisq.quantization.layer_inputs import LayerInputs
    from whisq.whisper import TensorSpec


@dataclass(frozen=True, slots=True)
class Importance(Method):
    """ggml's rounding with an importance matrix: its bytes with that."""

    name: str = "importance"
    needs: Needs = "importance"

    def round(
        self,
        tensor: TensorSpec,
        weights: Weights,
        type: TensorType,
        inputs: LayerInputs | None,
        threads: int = 1,
    ) -> Rounded:
        """Return the blocks."""
        return Rounded(ggml_blocks(weights, type, _given(inputs, tensor).importance(tensor.name), threads))

    def reason_against(self, tensor: TensorSpec, type: TensorType, calibration: Calibration | None) -> str:
        """Return why not: some types do not look at importance."""
        why = Method.reason_against(self, tensor, type, calibration)
        return why or (f"{type} does not use importance" if not type.uses_importance else "")

    def provenance(self, calibration: Calibration | None) -> dict[str, Any]:
        """Return the method and its audio, and the importance matrix as llama.cpp's quantizer says it."""
        stated = Method.provenance(self, calibration)
        if calibration is None:
            return stated
        imatrix = {"file": calibration.path.name, "entries_count": len(calibration.counts)}
        data = calibration.audio.get("data")
        if isinstance(data, list | tuple) and data:
            imatrix["dataset"] = ", ".join(map(str, data))
        return {**stated, "quantize": {"imatrix": imatrix}}


@dataclass(frozen=True, slots=True)
class Feedback(Method):
    """Rounding with error feedback (``kernels.feedback``): the output of the layer is kept, not the weights.

    In few bits rows are then made so much larger that their outputs are as large as before (``growth``). Where the
    calibration has weighed that output, rows take back from each other what the next words depend on
    (``two_sided``).
    """

    name: str = "feedback"
    needs: Needs = "second moments"
    shifts_bias: bool = True
    is_slow: bool = True

    def round(
        self,
        tensor: TensorSpec,
        weights: Weights,
        type: TensorType,
        inputs: LayerInputs | None,
        threads: int = 1,
    ) -> Rounded:
        """Return the blocks, and what the rounding takes from the layer's mean output where it has a bias."""
        from whisq.kernels.feedback import quantize_with_feedback
        from whisq.quantization.growth import BITS_THAT_SHRINK, grown
        from whisq.quantization.two_sided import quantize_two_sided

        given, array = _given(inputs, tensor), weights.array()
        if input_of(tensor.name) == EMBEDDING_INPUT:
            return Rounded(_embedding_blocks(tensor, weights, array, type, given, threads).data)
        outputs = given.output_factor(tensor.name)
        if outputs is None:
            blocks = quantize_with_feedback(array, type, given.factor(tensor.name), threads=threads)
        else:
            blocks = quantize_two_sided(array, type, given.factor(tensor.name), outputs, threads=threads)
        if type.bits_per_weight < BITS_THAT_SHRINK:
            blocks = grown(blocks, type, array, given.factor(tensor.name).second_moment)
        if tensor.bias is None:
            return Rounded(blocks.data)
        return Rounded(blocks.data, given.bias_shift(tensor.name, array, kernels.dequantize(blocks, type, array.shape)))

    def reason_against(self, tensor: TensorSpec, type: TensorType, calibration: Calibration | None) -> str:
        """Return why not: the core has no feedback for some types."""
        why = Method.reason_against(self, tensor, type, calibration)
        return why or ("" if kernels.has_feedback(type) else f"there is no rounding with feedback for {type}")

    def takes_whole(self, tensor: TensorSpec, calibration: Calibration | None) -> bool:
        """Return whether its output was weighed."""
        return calibration is not None and tensor.name.removesuffix(".weight") in calibration.outputs

    def provenance(self, calibration: Calibration | None) -> dict[str, Any]:
        """Return the method and its audio, and of how many layers the output was weighed."""
        stated = Method.provenance(self, calibration)
        if calibration is None or not calibration.outputs:
            return stated
        return {**stated, "calibration": {**stated["calibration"], "weighed_outputs": len(calibration.outputs)}}


FIT, IMPORTANCE, FEEDBACK = Fit(), Importance(), Feedback()
METHODS: tuple[Method, ...] = (GGML, FIT, IMPORTANCE, FEEDBACK)
"""Every method that a command line can name; of those that a calibration allows, the last is taken."""


def _embedding_blocks(
    tensor: TensorSpec,
    weights: Weights,
    array: NDArray[np.float32],
    type: TensorType,
    inputs: LayerInputs,
    threads: int,
) -> NDArray[np.uint8]:
    """Return rows of the token embedding with feedback for its use as the output matrix, none worse as an input.

    As an input a row is read as it is: its error there is that of its weights, which feedback trades for the output's.
    Damping is what that error weighs beside the other. A row whose weights err more than ggml's rounding of them is
    rounded with more and more damping, and, where nothing helps, as ggml does: text that was not calibrated on may
    hold any token.
    """
    import numpy as np

    from whisq.kernels.feedback import quantize_with_feedback

    def errors(blocks: NDArray[np.uint8], rows: NDArray[np.float32]) -> NDArray[np.float32]:
        difference = kernels.dequantize(np.ascontiguousarray(blocks), type, rows.shape) - rows
        return np.asarray(np.einsum("rc,rc->r", difference, difference))

    blocks = np.frombuffer(ggml_blocks(weights, type, None, threads), np.uint8).reshape(len(array), -1).copy()
    left, most = np.arange(len(array)), errors(blocks, array)
    for times in DAMPING_OF_EMBEDDINGS:
        fed = quantize_with_feedback(array[left], type, inputs.factor(tensor.name, times), threads=threads)
        serves = errors(fed, array[left]) <= most[left]
        blocks[left[serves]] = fed[serves]
        left = left[~serves]
        if not len(left):
            break
    return blocks


DAMPING_OF_EMBEDDINGS = (1, 3, 10, 30)
"""Multiples of the embedding's damping that a row is tried with, until its weights err no more than plainly rounded."""


def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(method.name for method in METHODS)


def parse_method(text: str | Method) -> Method:
    """Return the method of that name, in any case; raises ``PlanError``."""
    if isinstance(text, Method):
        return text
    for method in METHODS:
        if text.strip().lower() == method.name:
            return method
    raise PlanError(f"unknown method '{text}'", hint=f"use one of: {' '.join(method_names())}")


def best_method(calibration: Calibration | None) -> Method:
    """Return the method to use where none is asked for: ggml's own, or the best that a calibration allows.

    Raises ``PlanError`` for a calibration of 0.1 that was not looked at: what it allows is not known.
    """
    if calibration is None:
        return GGML
    if calibration.has_second_moments and calibration.singular is None:
        raise PlanError(
            f"{calibration.path}: does not say which inputs feedback can use",
            hint="give check_factors(calibration), of whisq.calibration.factors",
        )
    return [method for method in METHODS if method.what_is_missing(calibration) is None][-1]


def rounded(
    model: Model,
    tensor: TensorRef,
    type: TensorType,
    method: Method,
    inputs: LayerInputs | None,
    threads: int = 1,
) -> Rounded:
    """Return a whole matrix of a model as a file would hold it; raises ``WeightError`` with its name."""
    try:
        weights = Weights.of(model.array(tensor), expected_by(method, model, tensor.name))
        return method.round(tensor.spec, weights, type, inputs, threads)
    except UnfitWeightsError as error:
        raise WeightError(f"{model.path}: {tensor.name}: {error}", hint=hint_for([error.tally])) from None


def rounded_rows(
    model: Model,
    tensor: TensorRef,
    rows: tuple[int, int],
    type: TensorType,
    method: Method,
    inputs: LayerInputs | None,
    expected: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> Rounded:
    """Return some rows of a tensor, from the first to before the last, as a file would hold them.

    ``expected`` is what ``expected_by`` says. Raises ``UnfitWeightsError``.
    """
    source = model.rows(tensor, *rows)
    weights = Weights(source, tensor.type, tensor.n_columns, expected)
    if tensor.type.is_quantized:
        array = kernels.dequantize(source, tensor.type, (rows[1] - rows[0], tensor.n_columns))
        weights = Weights.of(array, expected)
    return method.round(tensor.spec, weights, type, inputs, threads)


def expected_by(method: Method, model: Model, matrix: str) -> NDArray[np.float32] | None:
    """Return what a method is told of a matrix's columns; None where it does not ask, or the model does not tell."""
    if not method.weighs_columns:
        return None
    from whisq.quantization.expected import expected_importance

    return expected_importance(model, matrix)


def exchanged(
    model: Model,
    tensor: TensorRef,
    type: TensorType,
    found: Rounded,
) -> dict[str, NDArray[np.float32]]:
    """Return by name what ``rounded`` changes, as a network computes with it: the matrix, and a bias that shifts."""
    changed = {tensor.name: kernels.dequantize(found.blocks, type, (tensor.n_rows, tensor.n_columns))}
    if found.bias_shift is not None and tensor.spec.bias is not None:
        changed[tensor.spec.bias] = shifted(model.array(tensor.spec.bias), found.bias_shift)
    return changed


def shifted(bias: Buffer, shift: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a bias in f32 that takes up a shift."""
    import numpy as np

    return np.frombuffer(bias, "<f4") + shift


def _given(inputs: LayerInputs | None, tensor: TensorSpec) -> LayerInputs:
    if inputs is None:
        raise CalibrationError(f"{tensor.name}: is to be rounded with a calibration, and there is none")
    return inputs
