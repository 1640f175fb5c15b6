"""Clips that calibrated nothing, and how far a plan's file would be from the source on them.

The source hears every piece of the clips and writes its own text; each plan's weights are shown the same text, token by
token. A piece is given as much context as it is long, with a second of silence behind it, and the source gets the same:
so the difference is due to the weights, and a run costs a part of one over 30 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whisq.clips.audio import SAMPLE_RATE
from whisq.clips.clip import Clip
from whisq.network.divergence import distributions
from whisq.network.mel import FRAME_SAMPLES, WINDOW_SAMPLES, log_mel, windows
from whisq.network.model import load_network
from whisq.network.tokens import likeliest_language
from whisq.progress import Progress, no_progress
from whisq.quantization.layer_inputs import LayerInputs
from whisq.quantization.plan import Plan
from whisq.quantization.rounding import exchanged, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.clips.audio import Samples
    from whisq.model import Model
    from whisq.network.operations import Array, Operations

THREADS = 2
TAIL_SAMPLES = SAMPLE_RATE
"""Silence behind a piece: without it some speech is written on and on."""
MARGIN_S = 0.2
"""What a sentence is given of the audio before and after it."""
TOKENS_PER_S = 6
"""Text is cut there: fast speech has about five."""


@dataclass(frozen=True, slots=True)
class Divergences:
    """Divergence on the judged pieces: for each the sum over its tokens in nats, and the number of tokens."""

    sums: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Nats per token."""
        return sum(self.sums) / sum(self.tokens)


@dataclass(frozen=True, slots=True)
class _Heard:
    """A piece as the source took it: its input, the prompt and text, and the logits from the text on.

    ``languages`` are the one that it was taken for and the one that the source hears.
    """

    mel: NDArray[np.float32]
    ids: tuple[int, ...]
    start: int
    logits: Array
    languages: tuple[str, str]


class Judge:
    """Measures plans of one model on clips."""

    def __init__(
        self, model: Model, clips: Sequence[Clip], operations: Operations, progress: Progress = no_progress
    ) -> None:
        self._model, self._operations = model, operations
        self._network = load_network(model, operations)
        self._heard: list[_Heard] = []
        self.duration_s = 0.0
        with operations.no_gradients():
            for number, clip in enumerate(clips):
                for samples, language in _pieces(clip):
                    self._heard.append(self._hear(samples, language))
                    self.duration_s += len(samples) / SAMPLE_RATE
                progress("listening to the source", number + 1, len(clips))

    @property
    def languages(self) -> list[tuple[str, str]]:
        """The language that each piece was taken for and the one that the source hears; empty if it knows one only."""
        return [heard.languages for heard in self._heard] if self._network.decoder.special.languages else []

    def divergences(self, plan: Plan) -> Divergences:
        """Return how far the weights of a plan are, rounded here and not written."""
        weights: dict[str, NDArray[np.float32]] = {}
        inputs = LayerInputs(plan.calibration, most_kept=4) if plan.calibration is not None else None
        for a in plan.assignments:
            if a.is_quantized_here:
                found = rounded(self._model, a.tensor, a.type, a.method, inputs, THREADS)
                weights |= exchanged(self._model, a.tensor, a.type, found)
        network = self._network.with_tensors(weights)
        del weights
        sums = []
        with self._operations.no_gradients():
            for heard in self._heard:
                encoded = network.encoder.encode(self._operations.array(heard.mel))
                logits = network.decoder.logits(encoded, heard.ids)[heard.start :]
                each = distributions(heard.logits, self._operations).divergences(logits)
                # Digits beyond these are the rounding of float32.
                sums.append(float(f"{each.sum():.9g}"))
        return Divergences(tuple(sums), tuple(len(heard.logits) for heard in self._heard))

    def _hear(self, samples: Samples, language: str | None) -> _Heard:
        positions = -(-(len(samples) + TAIL_SAMPLES) // FRAME_SAMPLES)
        mel = log_mel(samples, self._model)[:, :, : 2 * min(positions, self._model.dims.n_audio_ctx)]
        encoded = self._network.encoder.encode(self._operations.array(mel))
        decoder = self._network.decoder
        prompt = decoder.special.prompt(language)
        longest = max(8, TOKENS_PER_S * len(samples) // SAMPLE_RATE)
        ids = tuple(decoder.write(encoded, prompt, longest)[:-1])
        start, logits = len(prompt) - 1, decoder.logits(encoded, ids)
        # The prompt begins with the start token: what follows that is the language.
        heard = likeliest_language(decoder.special, self._operations.numpy(logits[:1])[0])
        return _Heard(mel, ids, start, logits[start:], (language or "en", heard or "en"))


def _pieces(clip: Clip) -> Iterator[tuple[Samples, str | None]]:
    """Yield what is judged by of a clip, of 30 s at most, each with its language: sentences, where they are known."""
    samples = clip.samples()
    for said in clip.sentences:
        start, stop = (round(SAMPLE_RATE * time_s) for time_s in (said.start_s - MARGIN_S, said.end_s + MARGIN_S))
        yield samples[max(0, start) : min(stop, start + WINDOW_SAMPLES)], said.language
    if not clip.sentences:
        for piece in windows(samples):
            yield piece, clip.language
