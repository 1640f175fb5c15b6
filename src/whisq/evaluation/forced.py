"""One model led token by token: in a runtime that gives logits, or in whisq's own forward pass.

A reference writes greedily, and every model is then asked what it would have written at each of the reference's
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whisq.clips.audio import Samples
from whisq.formats import open_model
from whisq.formats.special_tokens import SpecialTokens, special_tokens
from whisq.model import Model
from whisq.network.mel import FRAME_SAMPLES, log_mel
from whisq.network.model import Network, load_network
from whisq.network.operations import Operations
from whisq.network.tokens import LONGEST_TEXT, likeliest_language, text_ids
from whisq.runtimes.runtime import NextTokens

TIMESTAMP_S = 0.02
"""Seconds from one timestamp token to the next."""
_LATEST_START = 50
"""The first timestamp is that of 1 s at most: whisper.cpp's ``max_initial_ts``."""

Rows = NDArray[np.float32]
"""Logits ``[tokens, vocabulary]``."""


class Forced(Protocol):
    """A loaded model that is led through tokens."""

    special: SpecialTokens

    def hear(self, window: Samples) -> None:
        """Encode up to 30 s of 16 kHz mono samples."""

    def language(self) -> str | None:
        """Return the code of the language that the model hears, None for an English-only one."""

    def write(self, prompt: Sequence[int]) -> list[int]:
        """Return the prompt and the text that the model writes greedily after it, the end token included."""

    def rows(self, ids: Sequence[int], start: int) -> Any:
        """Return the logits after each of ``ids`` from ``start`` on."""

    def states(self) -> NDArray[np.float64] | None:
        """Return the encoder's output ``[frames, width]`` where there is audio, None where it is not told."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Which tokens may be written: whisper.cpp's rules, without its lists of what is not speech.

    ``is_text`` says it of each id of the vocabulary.
    """

    special: SpecialTokens
    is_text: NDArray[np.bool_]

    def text(self, scores: Rows) -> int:
        """Return the likeliest of text and the end."""
        allowed = self.is_text.copy()
        allowed[self.special.required("end")] = True
        return _likeliest(scores, allowed)

    def with_timestamps(self, scores: Rows, written: Sequence[int]) -> int:
        """Return the likeliest of text, the end and timestamps after what was written so far.

        A segment begins and ends with a timestamp, the first is within a second, none goes back, and one is written
        where all timestamps together are likelier than any text.
        """
        begin = self.special.required("timestamps_begin")
        times = self.times(written, len(scores))
        opened = bool(written) and written[-1] >= begin
        ended = opened and len(written) > 1 and written[-2] < begin
        text = self.is_text.copy()
        text[self.special.required("end")] = True
        if not written:
            text[:] = False
        elif ended:
            text[self.is_text] = False  # after a segment's end: the next one's start, or the end of all
        elif opened:
            times[:] = False
        if times.any() and _log_sum_exp(scores[times]) > scores[text].max(initial=-np.inf):
            return _likeliest(scores, times)
        return _likeliest(scores, text | times)

    def times(self, written: Sequence[int], n_vocab: int) -> NDArray[np.bool_]:
        """Return of each id whether it is a timestamp that may follow what was written, by time alone."""
        begin = self.special.required("timestamps_begin")
        found = np.zeros(n_vocab, bool)
        earlier = [token for token in written if token >= begin]
        # A segment that was opened lasts: its end comes after its start.
        earliest = earlier[-1] + (len(earlier) % 2) if earlier else begin
        found[earliest : begin + _LATEST_START + 1 if not written else None] = True
        return found


def _likeliest(scores: Rows, allowed: NDArray[np.bool_]) -> int:
    return int(np.where(allowed, scores, -np.inf).argmax())


def _log_sum_exp(scores: Rows) -> float:
    largest = float(scores.max())
    return largest + float(np.log(np.exp(scores.astype(np.float64) - largest).sum()))


class InRuntime:
    """A model in a runtime that gives logits, activations rounded as there."""

    def __init__(self, path: Path, tokens: NextTokens) -> None:
        self._tokens = tokens
        with open_model(path) as model:
            self.special = special_tokens(model)
            self.choices = Choices(self.special, text_ids(model, self.special))
            self._n_text_ctx = model.dims.n_text_ctx
        self._written: tuple[list[int], list[Rows]] = ([], [])

    def hear(self, window: Samples) -> None:
        """Encode a window."""
        self._tokens.hear(window)
        self._written = ([], [])

    def language(self) -> str | None:
        """Return the code of the language that the model hears, None for an English-only one."""
        if not self.special.languages:
            return None
        return likeliest_language(self.special, self._tokens.after([self.special.required("start")]))

    def write(self, prompt: Sequence[int], *, timestamps: bool = False) -> list[int]:
        """Return the prompt and what is written greedily after it, the end token included."""
        ids, end, seen = list(prompt), self.special.required("end"), []
        for _ in range(min(LONGEST_TEXT, self._n_text_ctx - len(ids))):
            scores = self._tokens.after(ids)
            seen.append(scores)
            written = ids[len(prompt) :]
            ids.append(self.choices.with_timestamps(scores, written) if timestamps else self.choices.text(scores))
            if ids[-1] == end:
                break
        self._written = (ids, seen)
        return ids

    def rows(self, ids: Sequence[int], start: int) -> Rows:
        """Return the logits after each of ``ids`` from ``start`` on."""
        written, seen = self._written
        if list(ids) == written[:-1] and len(seen) == len(ids) - start:
            return np.stack(seen)  # they were seen when it was written
        return np.stack([self._tokens.after(ids[: stop + 1]) for stop in range(start, len(ids))])

    def states(self) -> None:
        """Return None: runtimes do not tell the encoder's output."""

    def close(self) -> None:
        """Free the model in the runtime."""
        self._tokens.close()


class InNetwork:
    """A model in whisq's own forward pass, its weights dequantized."""

    def __init__(self, path: Path, operations: Operations) -> None:
        self._model: Model = open_model(path)
        self._network: Network = load_network(self._model, operations)
        self._operations = operations
        self.special = self._network.decoder.special
        self._encoded: Any = None
        self._frames = 0

    def hear(self, window: Samples) -> None:
        """Encode a window."""
        self._frames = max(1, -(-len(window) // FRAME_SAMPLES))
        with self._operations.no_gradients():
            self._encoded = self._network.encoder.encode(self._operations.array(log_mel(window, self._model)))

    def language(self) -> str | None:
        """Return the code of the language that the model hears, None for an English-only one."""
        if not self.special.languages:
            return None
        scores = self.rows([self.special.required("start")], 0)
        return likeliest_language(self.special, self._operations.numpy(scores)[0])

    def write(self, prompt: Sequence[int]) -> list[int]:
        """Return the prompt and what is written greedily after it, the end token included."""
        with self._operations.no_gradients():
            return self._network.decoder.write(self._encoded, prompt)

    def rows(self, ids: Sequence[int], start: int) -> Any:
        """Return the logits after each of ``ids`` from ``start`` on, as the backend's array."""
        with self._operations.no_gradients():
            return self._network.decoder.logits(self._encoded, ids)[start:]

    def states(self) -> NDArray[np.float64]:
        """Return the encoder's output ``[frames, width]`` where there is audio."""
        return self._operations.numpy(self._encoded[0, : self._frames]).astype(np.float64)
