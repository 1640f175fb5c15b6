"""What a method of rounding is, and ggml's own: that is what a matrix gets where another cannot serve.

``decide`` says before any work how a tensor will be rounded, so that a plan can say it of every one; ``round`` does
it. What a plan, a file, a search or a command line wants to know of a method they ask of it; nothing compares names.
The values that can be asked for are in ``rounding.METHODS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from whisq import kernels
from whisq.calibration.inputs import input_of
from whisq.errors import PlanError, WeightError
from whisq.kernels.threads import over_rows
from whisq.types import BF16, F32, TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from whisq.calibration import Calibration
    from whisq.quantization.layer_inputs import LayerInputs
    from whisq.whisper import TensorSpec

Needs = Literal["nothing", "importance", "second moments"]


class UnfitWeightsError(WeightError):
    """Weights of one tensor that its type cannot hold; ``tally`` counts them."""

    def __init__(self, tally: kernels.Tally) -> None:
        parts = [f"{tally.nan} NaN"] * bool(tally.nan) + [f"{tally.infinite} infinite"] * bool(tally.infinite)
        parts += [f"{tally.overflow} beyond f16's range (±65504)"] * bool(tally.overflow)
        super().__init__(", ".join(parts))
        self.tally = tally


@dataclass(frozen=True, slots=True)
class Weights:
    """Rows of a tensor as a file holds them: whole rows of ``n_columns`` weights in f32, f16 or bf16.

    ``expected`` is the importance of the columns that the model itself lets expect, ``float32[columns]``
    (``expected_importance``): for a method that ``weighs_columns``, where the model tells.
    """

    data: memoryview
    type: TensorType
    n_columns: int
    expected: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, array: NDArray[np.float32], expected: NDArray[np.float32] | None = None) -> Weights:
        """Return the rows of a contiguous ``float32[rows, columns]``."""
        return cls(array.data, F32, array.shape[-1], expected)

    @property
    def n_rows(self) -> int:
        """Rows in ``data``."""
        return self.data.nbytes // self.type.row_bytes(self.n_columns)

    def array(self) -> NDArray[np.float32]:
        """Return them as ``float32[rows, columns]``; raises ``UnfitWeightsError`` for what no block can hold."""
        import numpy as np

        result = np.empty((self.n_rows, self.n_columns), np.float32)
        tally = kernels.quantize_rows(self.data.cast("B"), self.type, result.reshape(-1), F32, self.n_columns, None)
        if any(tally):
            raise UnfitWeightsError(tally)
        return result


@dataclass(frozen=True, slots=True)
class Rounded:
    """Rows in their new type, one after the other, and what the layer's bias takes up: ``float32[rows]``, or None."""

    blocks: memoryview
    bias_shift: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The method of one tensor, and why it is not the one asked for (empty when it is)."""

    method: Method
    why: str = ""


@dataclass(frozen=True, slots=True)
class Method(ABC):
    """A way of rounding.

    ``needs`` is what it must know of a layer's inputs. ``is_plain`` is true for what is done where nothing was asked,
    which output does not mention. With ``shifts_bias`` the bias of a layer takes up what the rounding takes from its
    mean output. One that ``weighs_columns`` is told what the model itself lets expect of a layer's inputs. What
    ``is_slow`` takes far longer than reading and writing do, so that a cluster's nodes are worth asking.
    """

    name: str
    needs: Needs = "nothing"
    is_plain: bool = False
    shifts_bias: bool = False
    weighs_columns: bool = False
    is_slow: bool = False

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def round(
        self,
        tensor: TensorSpec,
        weights: Weights,
        type: TensorType,
        inputs: LayerInputs | None,
        threads: int = 1,
    ) -> Rounded:
        """Return rows of a tensor in a type; rows are independent of ``threads``, and of each other.

        But for a tensor that it ``takes_whole``: of that there are all rows.

        ``inputs`` is there when the method needs something. Raises ``UnfitWeightsError``, and ``CalibrationError`` for
        a matrix whose input cannot serve: ``decide`` says so before.
        """

    def takes_whole(self, tensor: TensorSpec, calibration: Calibration | None) -> bool:
        """True for a matrix whose rows depend on each other: ``round`` is then given all of them at once."""
        return False

    def decide(self, tensor: TensorSpec, type: TensorType, calibration: Calibration | None) -> Decision:
        """Return how a tensor will be rounded. Nothing is read or computed.

        Raises ``PlanError`` when a calibration is needed that is not there, or that does not hold what is needed.
        """
        if not type.is_quantized:
            return Decision(GGML)
        missing = self.what_is_missing(calibration)
        if missing is not None:
            raise missing
        why = self.reason_against(tensor, type, calibration)
        return Decision(GGML, why) if why else Decision(self)

    def what_is_missing(self, calibration: Calibration | None) -> PlanError | None:
        """Return the error that a calibration, or its absence, is to this method; None where it serves."""
        if self.needs == "nothing":
            return None
        if calibration is None:
            return PlanError(
                f"--method {self} needs to know the layers' inputs",
                hint="add --calibration FILE, from `whisq calibrate`",
            )
        if self.needs == "importance":
            return None
        if not calibration.has_second_moments:
            return PlanError(
                f"{calibration.path}: holds importance only, {self} needs second moments",
                hint="use --method importance, or a calibration from `whisq calibrate`",
            )
        if calibration.singular is None:
            return PlanError(
                f"{calibration.path}: does not say which second moments are singular, as one of whisq 0.1",
                hint="give the plan check_factors(calibration), of whisq.calibration.factors",
            )
        return None

    def reason_against(self, tensor: TensorSpec, type: TensorType, calibration: Calibration | None) -> str:
        """Return why this matrix cannot be rounded so, in a few words; empty where it can."""
        if self.needs == "nothing" or calibration is None:
            return ""
        source = input_of(tensor.name)
        if source is None or source not in calibration.counts:
            return f"{calibration.path.name} does not cover it"
        if calibration.counts[source] == 0 or source in calibration.idle:
            return "its input was never active in the calibration"
        if self.needs == "second moments" and (wrong := (calibration.singular or {}).get(source)):
            return f"of its input in {calibration.path.name}, {wrong}"
        return ""

    def provenance(self, calibration: Calibration | None) -> dict[str, Any]:
        """Return what a file says of having been rounded so, by key: the method, and what it was calibrated on."""
        if self.needs == "nothing":
            return {} if self.is_plain else {"method": self.name}
        if calibration is None:
            return {}
        stated = {key: calibration.audio[key] for key in _STATED_OF_AUDIO if key in calibration.audio}
        named = {"name": calibration.path.name, "sha256": calibration.sha256}
        return {"method": self.name, "calibration": {**named, **stated}}


_STATED_OF_AUDIO = ("data", "data_sha256", "speech", "seconds", "tokens")


@dataclass(frozen=True, slots=True)
class Ggml(Method):
    """ggml's own rounding: its bytes."""

    name: str = "ggml"
    is_plain: bool = True

    def round(
        self,
        tensor: TensorSpec,
        weights: Weights,
        type: TensorType,
        inputs: LayerInputs | None,
        threads: int = 1,
    ) -> Rounded:
        """Return the blocks."""
        return Rounded(ggml_blocks(weights, type, None, threads))


GGML = Ggml()


def hint_for(tallies: Iterable[kernels.Tally]) -> str:
    """Return what to do about weights that a type cannot hold."""
    if any(tally.nan or tally.infinite for tally in tallies):
        return "convert the model from its original source again: this one is damaged, or its training diverged"
    return (
        "keep the tensor in f32 by a rule (--tensor-type 'PATTERN=f32'; conv kernels: --keep-f32), or rescale the model"
    )


def ggml_blocks(
    weights: Weights,
    type: TensorType,
    importance: NDArray[np.float32] | None,
    threads: int,
) -> memoryview:
    """Return rows as ggml rounds them, with its ``imatrix`` argument or without; raises ``UnfitWeightsError``."""
    # Without numpy, whose import would cost a small model's quantization as much time again.
    source, columns = weights.data.cast("B"), weights.n_columns
    from_bytes, to_bytes = weights.type.row_bytes(columns), type.row_bytes(columns)
    blocks = memoryview(bytearray(weights.n_rows * to_bytes))
    tallies: list[kernels.Tally] = []

    def work(start: int, stop: int) -> None:
        if start < stop:
            part, into = source[start * from_bytes : stop * from_bytes], blocks[start * to_bytes : stop * to_bytes]
            tallies.append(kernels.quantize_rows(part, weights.type, into, type, columns, importance))

    if threads == 1:  # a file's pieces: there are thousands of them
        tally = kernels.quantize_rows(source, weights.type, blocks, type, columns, importance)
    else:
        over_rows(work, weights.n_rows, threads)
        tally = kernels.Tally(*(sum(counts) for counts in zip(*tallies, strict=True)))
    if type in (F32, BF16):
        tally = tally._replace(overflow=0)
    if any(tally):
        raise UnfitWeightsError(tally)
    return blocks
