"""Rounding to what is nearest to the weights, found by a search, without audio (``kernels.fit``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisq.quantization.method import Method, Rounded, Weights
from whisq.types import TensorType

if TYPE_CHECKING:
    from whisq.quantization.layer_inputs import LayerInputs
    from whisq.whisper import TensorSpec


@dataclass(frozen=True, slots=True)
class Fit(Method):
    """Each block's scale, minimum and integers searched for, an error weighed by the inputs that the model expects."""

    name: str = "fit"
    weighs_columns: bool = True
    is_slow: bool = True

    def round(
        self,
        tensor: TensorSpec,
        weights: Weights,
        type: TensorType,
        inputs: LayerInputs | None,
        threads: int = 1,
    ) -> Rounded:
        """Return the blocks."""
        from whisq.kernels.fit import quantize_fitted

        return Rounded(quantize_fitted(weights.array(), type, weights.expected, threads=threads).data)
