"""The array operations that Whisper's forward pass is written in: what a backend gives.

A backend's arrays also know ``+ - *``, slices, ``shape``, ``reshape`` and ``swapaxes``: numpy's, torch's and cupy's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = Any
"""An array of a backend; float32 unless its docstring says otherwise."""

NORM_EPSILON = 1e-5
"""Added to the variance in a layer norm: torch's default, which Whisper was trained with."""


class Operations(Protocol):
    """One backend, on one device. Whatever is given and returned is the backend's array, but for the first two."""

    def array(self, values: NDArray[Any]) -> Array:
        """Return an array with these values in float32."""

    def numpy(self, x: Array) -> NDArray[Any]:
        """Return an array's values as numpy's."""

    def no_gradients(self) -> AbstractContextManager[Any]:
        """Return a context to compute in: nothing is remembered for gradients, and all threads are used."""

    def linear(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Return x Wᵀ + b over the last axis; ``weight`` is ``[outputs, inputs]``."""

    def layer_norm(self, x: Array, weight: Array, bias: Array) -> Array:
        """Return x with mean 0 and variance 1 over the last axis, scaled and shifted."""

    def gelu(self, x: Array) -> Array:
        """Return x Φ(x), Φ by the error function and not by its approximation."""

    def conv1d(self, x: Array, kernel: Array, bias: Array, stride: int) -> Array:
        """Return the convolution of ``x[batch, inputs, positions]``, one zero added at each end.

        ``kernel`` is ``[outputs, inputs, 3]``; the result is ``[batch, outputs, positions / stride]``.
        """

    def attention(self, queries: Array, keys: Array, values: Array, *, causal: bool) -> Array:
        """Return softmax(q kᵀ / √width) v for arrays ``[batch, heads, positions, width]``.

        With ``causal``, for as many queries as keys, no query sees a key after its own position.
        """

    def attention_weights(self, queries: Array, keys: Array) -> Array:
        """Return softmax(q kᵀ / √width), ``[batch, heads, queries, keys]``."""

    def linear_back(self, gradient: Array, weight: Array) -> Array:
        """Return the gradient at the input of ``linear``, for that at its result."""

    def layer_norm_back(self, x: Array, weight: Array, gradient: Array) -> Array:
        """Return the gradient at ``x`` of a layer norm, for that at its result; several for one x, as in what follows.

        A batch of one may have a gradient with any batch: each is taken back by itself.
        """

    def gelu_back(self, x: Array, gradient: Array) -> Array:
        """Return the gradient at ``x`` of ``gelu``, for that at its result."""

    def attention_back(
        self, queries: Array, keys: Array, values: Array, gradient: Array, *, causal: bool
    ) -> tuple[Array, Array, Array]:
        """Return the gradients at queries, keys and values of ``attention``, for that at its result."""

    def second_moment(self, x: Array, weights: Array | None) -> Array:
        """Return Σ w x xᵀ, ``[width, width]``, over vectors ``[rows, width]``, each with its weight or with 1."""

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        """Return arrays joined along an axis."""

    def float64(self, x: Array) -> Array:
        """Return an array in float64."""

    def exp(self, x: Array) -> Array:
        """Return e to the power of each value."""

    def log_sum_exp(self, x: Array) -> Array:
        """Return log Σ exp x over the last axis of a float64 array."""
