"""Where windows are taken through a layer, or their texts written, a group at a time: a calibration's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisq.calibration.inputs import ENCODER_OUTPUT, input_of
from whisq.calibration.sums import Sums
from whisq.calibration.texts import write_texts
from whisq.formats import open_model
from whisq.formats.sources import source_of
from whisq.model import Model
from whisq.network import stack
from whisq.network.devices import kind_of, operations_for
from whisq.network.model import load_decoder
from whisq.network.stack import KeysValues, Layer, Observer, read_layer
from whisq.work import Bench, Job, Needs, Parcel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.calibration.sums import Packed
    from whisq.network.model import Decoder
    from whisq.network.operations import Array, Operations
    from whisq.whisper import Dimensions, Stack

_BYTES_BESIDE = 400_000_000
_VECTOR_S = 6e-11
"""Seconds of a core for each weight that a vector passes, its second moment included."""


@dataclass(frozen=True, slots=True)
class EncoderPart:
    """Windows, ``first`` the number of the first, before a layer: states and weights of the frames of each."""

    layer: int
    first: int
    states: Sequence[Array]
    weights: Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class DecoderPart:
    """Lines before a layer: states of each, and whether it was heard.

    ``first`` is the number of the first line, ``first_heard`` that among those that were heard. ``encoded`` are the
    encoder's outputs of their windows, ``windows`` says which of those each line is about.
    """

    layer: int
    first: int
    first_heard: int
    states: Sequence[Array]
    heard: Sequence[bool]
    encoded: Sequence[Array]
    windows: Sequence[int]


@dataclass(frozen=True, slots=True)
class TextsPart:
    """Windows whose texts are to be written: the encoder's outputs, and languages."""

    encoded: Sequence[Array]
    languages: Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Passed:
    """What came of windows or lines: states after the layer, sums by input, attention that frames received."""

    states: Sequence[Array]
    sums: Mapping[str, Sums | Packed]
    received: Sequence[Array]


class LayersBench(Bench):
    """Takes windows and lines through a layer, or writes texts. With ``packs`` all that goes in and out is numpy's."""

    def __init__(self, model: Model, operations: Operations, *, packs: bool) -> None:
        self._model, self._operations, self._packs = model, operations, packs
        self._layer: tuple[tuple[Stack, int], Layer] | None = None
        self._decoder: Decoder | None = None

    def do(self, argument: EncoderPart | DecoderPart | TextsPart) -> Any:
        """Return what became of it: ``Passed``, or for ``TextsPart`` ids by window."""
        with self._operations.no_gradients():
            if isinstance(argument, TextsPart):
                return self._written(argument)
            passes = self._encoder(argument) if isinstance(argument, EncoderPart) else self._decoder_layer(argument)
            states, seen = passes
            if not self._packs:
                return Passed(states, seen.sums, seen.received)
            # The products of what has waited for more are made here, too.
            sums = {name: found.packed() for name, found in seen.sums.items()}
            to_numpy = self._operations.numpy
            return Passed(list(map(to_numpy, states)), sums, list(map(to_numpy, seen.received)))

    def close(self) -> None:
        """Let go of the weights."""
        self._layer = self._decoder = None

    def _arrays(self, given: Sequence[Array]) -> list[Array]:
        return [self._operations.array(one) for one in given] if self._packs else list(given)

    def _read(self, half: Stack, number: int) -> Layer:
        if self._layer is None or self._layer[0] != (half, number):
            self._layer = self._decoder = None
            self._layer = (half, number), read_layer(self._model, half, number, self._operations)
        return self._layer[1]

    def _encoder(self, part: EncoderPart) -> tuple[list[Array], _Sees]:
        layer, sees, result = self._read("encoder", part.layer), _Sees(self._operations, part.first, 0), []
        for states, weights in zip(self._arrays(part.states), part.weights, strict=True):
            sees.frame_weights = self._operations.array(weights)
            result.append(stack.encoder_block(layer, states, sees))
        return result, sees

    def _decoder_layer(self, part: DecoderPart) -> tuple[list[Array], _Sees]:
        layer = self._read("decoder", part.layer)
        sees, result = _Sees(self._operations, part.first, part.first_heard), []
        encoded, last = self._arrays(part.encoded), -1
        cross: KeysValues | None = None
        for states, window, heard in zip(self._arrays(part.states), part.windows, part.heard, strict=True):
            if cross is None or window != last:
                cross, last = stack.keys_values(layer, "cross_attn", encoded[window]), window
            sees.heard = heard
            result.append(stack.decoder_block(layer, states, cross, sees))
        return result, sees

    def _written(self, part: TextsPart) -> list[list[int]]:
        if self._decoder is None:
            self._layer = None
            self._decoder = load_decoder(self._model, self._operations)
        return write_texts(self._decoder, self._arrays(part.encoded), part.languages)


@dataclass(frozen=True)
class LayersParcel(Parcel):
    """What a bench on another machine is made of."""

    name: str
    device: str

    def open(self, paths: Mapping[str, Path], threads: int) -> LayersBench:
        """Return a bench on a model that was sent, or found."""
        model = open_model(str(paths["model"] / self.name if self.name else paths["model"]))
        return LayersBench(model, operations_for(self.device, threads), packs=True)


@dataclass(frozen=True, eq=False)
class LayersJob(Job):
    """A calibration's units, which take so much memory at most, on one device."""

    model: Model
    operations: Operations
    device: str
    memory_bytes: int

    def open(self) -> LayersBench:
        """Return a bench on what is open here."""
        return LayersBench(self.model, self.operations, packs=False)

    def parcel(self) -> LayersParcel:
        """Return what makes a bench elsewhere."""
        source, name = source_of(self.model)
        needs = Needs(self.memory_bytes, gpus=0 if self.device == "cpu" else 1)
        return LayersParcel({"model": source}, needs, name, kind_of(self.device))


class _Sees(Observer):
    """Adds up the inputs of one layer over windows, and the attention that the encoder's frames receive in it."""

    def __init__(self, operations: Operations, first: int, first_heard: int) -> None:
        self._operations, self._first, self._first_heard = operations, first, first_heard
        self.sums: dict[str, Sums] = {}
        self.received: list[Array] = []
        self.frame_weights: Array = None
        self.heard = True

    def input(self, name: str, x: Array) -> None:
        # The encoder's output belongs to all decoder layers: it is added up at the end.
        is_cross = ".cross_attn." in name
        if name == input_of(f"{name}.weight") and name != ENCODER_OUTPUT and (self.heard or not is_cross):
            first = self._first_heard if is_cross else self._first
            self.sums.setdefault(name, Sums(self._operations, first)).add(x[0], self.frame_weights)

    def attention(self, name: str, queries: Array, keys: Array) -> None:
        if name.endswith(".cross_attn") and self.heard:
            self.received.append(self._operations.attention_weights(queries, keys)[0].mean(0).sum(0))


def layer_bytes(dims: Dimensions, most_windows: int) -> int:
    """Return the memory that a bench takes for so many windows and a layer: weights, sums, and what windows make."""
    width, frames = max(dims.n_audio_state, dims.n_text_state), dims.n_audio_ctx
    weights, sums = 4 * 16 * width**2, 8 * 3 * 20 * width**2
    window = 4 * frames * width
    return _BYTES_BESIDE + weights + sums + (36 + 3 * most_windows) * window


def texts_bytes(dims: Dimensions, most_windows: int) -> int:
    """Return the memory that a bench takes to write the texts of so many windows: a decoder, keys and values."""
    width = dims.n_text_state
    weights = 4 * (dims.n_vocab + dims.n_text_ctx + 16 * width * dims.n_text_layer) * width
    return _BYTES_BESIDE + weights + 4 * most_windows * dims.n_audio_ctx * width * (2 * dims.n_text_layer + 2)


def layer_cost(dims: Dimensions, n_vectors: int) -> float:
    """Return what so many vectors take in a layer, in seconds of a core."""
    return _VECTOR_S * 16 * max(dims.n_audio_state, dims.n_text_state) ** 2 * n_vectors
