"""The forward pass's operations in numpy alone, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisq.network.operations import NORM_EPSILON
from whisq.network.threads import Threads

Floats = NDArray[np.float32]

_PIECE = 1 << 16
"""Values of an element-wise operation that are taken at once: with what is computed between, they stay in the cache."""
_QUERIES = 128
"""Queries whose attention is computed at once: on 1500 frames their weights take 0.8 MB."""
_PRODUCTS = 64
"""Multiply-adds of a product of matrices that take as long as one value of an element-wise operation."""
_MOMENT_BLOCKS = 8
"""Blocks of columns of a second moment: 0.56 of all products are computed."""
_FEW_ROWS, _MANY_WEIGHTS = 16, 1 << 20
"""A product of few rows with so many weights waits for memory: its threads share the weights, not the rows."""


class NumpyOperations:
    """Numpy in float32. Within ``no_gradients`` the work is shared among ``threads``, by default all CPUs."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = Threads(threads)

    def array(self, values: NDArray[Any]) -> Floats:
        """Return the values in float32."""
        return np.ascontiguousarray(values, np.float32)

    def numpy(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the array itself."""
        return x

    def no_gradients(self) -> AbstractContextManager[None]:
        """Return a context in which the work is shared out among the threads; there are no gradients anyway."""
        return self._threads.owned()

    def linear(self, x: Floats, weight: Floats, bias: Floats | None) -> Floats:
        """Return x Wᵀ + b, as one product of two matrices for each thread."""
        rows = x.reshape(-1, x.shape[-1])
        found = np.empty((len(rows), len(weight)), np.float32)

        def some_rows(part: slice) -> None:
            np.matmul(rows[part], weight.T, out=found[part])
            if bias is not None:
                found[part] += bias

        def some_outputs(part: slice) -> None:
            found[:, part] = rows @ weight[part].T
            if bias is not None:
                found[:, part] += bias[part]

        if len(rows) < _FEW_ROWS and weight.size >= _MANY_WEIGHTS:
            self._threads.run(some_outputs, len(weight), weight.size)
        else:
            self._threads.run(some_rows, len(rows), rows.size * len(weight) // _PRODUCTS)
        return found.reshape(*x.shape[:-1], len(weight))

    def layer_norm(self, x: Floats, weight: Floats, bias: Floats) -> Floats:
        """Return x normed over the last axis."""
        rows = x.reshape(-1, x.shape[-1])
        found = np.empty(rows.shape, np.float32)

        def some_rows(part: slice) -> None:
            centred = np.subtract(rows[part], rows[part].mean(-1, keepdims=True), out=found[part])
            variance = np.square(centred).mean(-1, keepdims=True)
            centred *= 1 / np.sqrt(variance + np.float32(NORM_EPSILON))
            centred *= weight
            centred += bias

        self._threads.run(some_rows, len(rows), rows.size)
        return found.reshape(x.shape)

    def gelu(self, x: Floats) -> Floats:
        """Return x Φ(x)."""
        from scipy.special import erf

        flat = x.reshape(-1)
        found = np.empty_like(flat)

        def some(part: slice) -> None:
            for start in range(part.start, part.stop, _PIECE):
                place = slice(start, min(start + _PIECE, part.stop))
                share = np.multiply(flat[place], np.float32(0.5**0.5), out=found[place])
                erf(share, out=share)
                share += 1
                share *= flat[place]
                share *= np.float32(0.5)

        self._threads.run(some, flat.size, 8 * flat.size)
        return found.reshape(x.shape)

    def conv1d(self, x: Floats, kernel: Floats, bias: Floats, stride: int) -> Floats:
        """Return the convolution over the last axis, as one product for each window of the batch."""
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
        patches = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=-1)[:, :, ::stride]
        # [batch, positions, inputs × 3], the kernel's own order.
        rows = patches.swapaxes(1, 2).reshape(len(x), -1, kernel.shape[1] * 3)
        return self.linear(rows, kernel.reshape(len(kernel), -1), bias).swapaxes(1, 2)

    def attention(self, queries: Floats, keys: Floats, values: Floats, *, causal: bool) -> Floats:
        """Return softmax(q kᵀ / √width) v, head by head."""
        found = np.empty(queries.shape, np.float32)
        places = list(np.ndindex(*queries.shape[:2]))

        def one_head(number: int) -> None:
            place = places[number]
            for rows, seen in _chunks(queries.shape[2], keys.shape[2], causal=causal):
                weights = _weights(queries[place], keys[place], rows, seen, causal=causal)
                found[place][rows] = weights @ values[place][:seen]

        self._heads(one_head, places, queries.shape[2] * keys.shape[2])
        return found

    def _heads(self, work: Callable[[int], None], places: Sequence[Any], n_weights: int) -> None:
        """Call ``work`` on the number of each head, in all threads if one has weights enough."""
        if n_weights < _PIECE // 4:
            for number in range(len(places)):
                work(number)
        else:
            self._threads.each(work, range(len(places)))

    def attention_weights(self, queries: Floats, keys: Floats) -> Floats:
        """Return softmax(q kᵀ / √width)."""
        return _softmax(_scores(queries, keys))

    def linear_back(self, gradient: Floats, weight: Floats) -> Floats:
        """Return the gradient at the input of ``linear``."""
        rows = gradient.reshape(-1, gradient.shape[-1])
        found = np.empty((len(rows), weight.shape[1]), np.float32)

        def some_rows(part: slice) -> None:
            np.matmul(rows[part], weight, out=found[part])

        self._threads.run(some_rows, len(rows), rows.size * weight.shape[1] // _PRODUCTS)
        return found.reshape(*gradient.shape[:-1], weight.shape[1])

    def layer_norm_back(self, x: Floats, weight: Floats, gradient: Floats) -> Floats:
        """Return the gradient at ``x``."""
        rows = x.reshape(-1, x.shape[-1])
        gradients = gradient.reshape(-1, *rows.shape)
        found = np.empty(gradients.shape, np.float32)

        def some_rows(part: slice) -> None:
            normed = rows[part] - rows[part].mean(-1, keepdims=True)
            inverse = 1 / np.sqrt(np.square(normed).mean(-1, keepdims=True) + np.float32(NORM_EPSILON))
            normed *= inverse
            for one, into in zip(gradients[:, part], found[:, part], strict=True):
                np.multiply(one, weight, out=into)
                along = np.einsum("rw,rw->r", into, normed)[:, None] / np.float32(rows.shape[1])
                into -= into.mean(-1, keepdims=True)
                into -= normed * along
                into *= inverse

        self._threads.run(some_rows, len(rows), gradients.size)
        return found.reshape(gradient.shape)

    def gelu_back(self, x: Floats, gradient: Floats) -> Floats:
        """Return the gradient at ``x``: the slope of x Φ(x) is Φ(x) + x φ(x)."""
        from scipy.special import ndtr

        flat = x.reshape(-1)
        gradients = gradient.reshape(-1, flat.size)
        found = np.empty_like(gradients)

        def some(part: slice) -> None:
            for start in range(part.start, part.stop, _PIECE):
                place = slice(start, min(start + _PIECE, part.stop))
                slope = np.square(flat[place])
                slope *= np.float32(-0.5)
                np.exp(slope, out=slope)
                slope *= np.float32((2 * np.pi) ** -0.5)
                slope *= flat[place]
                slope += ndtr(flat[place])
                np.multiply(gradients[:, place], slope, out=found[:, place])

        self._threads.run(some, flat.size, 8 * flat.size)
        return found.reshape(gradient.shape)

    def attention_back(
        self, queries: Floats, keys: Floats, values: Floats, gradient: Floats, *, causal: bool
    ) -> tuple[Floats, Floats, Floats]:
        """Return the gradients at queries, keys and values, head by head."""
        shapes = ((len(gradient), *x.shape[1:]) for x in (queries, keys, values))
        at_queries, at_keys, at_values = (np.zeros(shape, np.float32) for shape in shapes)
        scale = np.float32(queries.shape[-1] ** -0.5)
        places = list(np.ndindex(*queries.shape[:2]))

        def one_head(number: int) -> None:
            batch, head = places[number]
            mine = slice(batch, batch + 1) if len(queries) > 1 else slice(None)
            given, seen_by = gradient[mine, head], (queries[batch, head], keys[batch, head], values[batch, head])
            into = at_queries[mine, head], at_keys[mine, head], at_values[mine, head]
            _head_back(*seen_by, given, into, scale, causal=causal)

        self._heads(one_head, places, queries.shape[2] * keys.shape[2])
        return at_queries, at_keys, at_values

    def second_moment(self, x: Floats, weights: Floats | None) -> Floats:
        """Return Σ w x xᵀ: the blocks below the diagonal, and those above as their mirror."""
        scaled = x if weights is None else x * np.sqrt(weights)[:, None]
        width = x.shape[-1]
        edges = [width * part // _MOMENT_BLOCKS for part in range(_MOMENT_BLOCKS + 1)]
        found = np.empty((width, width), np.float32)

        def some_columns(number: int) -> None:
            start, stop = edges[number], edges[number + 1]
            mine = scaled[:, start:stop]
            found[start:stop, start:stop] = mine.T @ mine
            found[start:stop, :start] = mine.T @ scaled[:, :start]
            found[:start, start:stop] = found[start:stop, :start].T

        # The largest first: the threads then end together.
        self._threads.each(some_columns, range(_MOMENT_BLOCKS)[::-1])
        return found

    def concatenate(self, arrays: Sequence[Floats], axis: int) -> Floats:
        """Return arrays joined along an axis."""
        return np.concatenate(arrays, axis)

    def float64(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Return an array in float64."""
        return x.astype(np.float64)

    def exp(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return e to the power of each value."""
        found: NDArray[Any] = np.exp(x)
        return found

    def log_sum_exp(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log Σ exp x."""
        largest = x.max(-1, keepdims=True)
        apart = x - largest
        np.exp(apart, out=apart)
        found: NDArray[np.float64] = np.log(apart.sum(-1)) + largest[..., 0]
        return found


def _chunks(n_queries: int, n_keys: int, *, causal: bool) -> Iterator[tuple[slice, int]]:
    """Yield queries that are taken at once, and how many keys the last of them sees."""
    for start in range(0, n_queries, _QUERIES):
        stop = min(start + _QUERIES, n_queries)
        yield slice(start, stop), stop if causal else n_keys


def _weights(queries: Floats, keys: Floats, rows: slice, seen: int, *, causal: bool) -> Floats:
    """Return the attention weights of some queries of a head on the first ``seen`` keys."""
    scores = _scores(queries[rows], keys[:seen])
    if causal:
        scores[np.arange(seen) > np.arange(rows.start, seen)[:, None]] = -np.inf
    return _softmax(scores)


def _head_back(
    queries: Floats,
    keys: Floats,
    values: Floats,
    gradients: Floats,
    into: tuple[Floats, Floats, Floats],
    scale: np.float32,
    *,
    causal: bool,
) -> None:
    """Add the gradients at a head's queries, keys and values, for gradients ``[gradients, queries, width]``.

    The attention weights are computed once for all. What softmax takes off, the mean of the gradient at the weights, is
    the product of gradient and result.
    """
    at_queries, at_keys, at_values = into
    for rows, seen in _chunks(len(queries), len(keys), causal=causal):
        weights = _weights(queries, keys, rows, seen, causal=causal)
        mixed = weights @ values[:seen]
        scaled = queries[rows] * scale
        for number, gradient in enumerate(gradients[:, rows]):
            at_values[number, :seen] += weights.T @ gradient
            at_scores = gradient @ values[:seen].T
            at_scores -= np.einsum("rw,rw->r", gradient, mixed)[:, None]
            at_scores *= weights
            at_queries[number, rows] = at_scores @ keys[:seen]
            at_queries[number, rows] *= scale
            at_keys[number, :seen] += at_scores.T @ scaled


def _scores(queries: Floats, keys: Floats) -> Floats:
    scaled: Floats = np.multiply(queries, queries.shape[-1] ** -0.5, dtype=np.float32)
    return scaled @ keys.swapaxes(-1, -2)


def _softmax(scores: Floats) -> Floats:
    """Return the softmax over the last axis, in the place of its argument."""
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores
