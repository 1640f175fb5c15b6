"""The windows of 30 s that a model is given, and what its decoder is shown for each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whisq.clips.audio import SAMPLE_RATE, Samples
from whisq.clips.builtin import builtin_texts
from whisq.clips.clip import Clip, Sentence
from whisq.network.mel import FRAME_SAMPLES, WINDOW_SAMPLES, windows
from whisq.network.tokens import LONGEST_TEXT, encode_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.formats.special_tokens import SpecialTokens, Task
    from whisq.model import Model
    from whisq.network.model import Decoder
    from whisq.network.operations import Array

TIMESTAMPS_PER_S = 50
_WITHOUT_SPACES = ("zh", "yue", "ja", "th", "lo", "my", "km")
"""Languages whose text Whisper writes without a space before it."""
_SENTENCES, _PACE_S = 3, 4.0
"""Sentences in a line of text that nobody speaks, and the seconds that its timestamps give each."""


PADDING_SHARE = 0.25
"""Weight of the silence up to 30 s against that of the audio. The decoder attends to it (35 % on tiny.en): of none,
0.25 and 0.5, this gave the encoder's q4_0 the least divergence on held-out speakers."""


@dataclass(frozen=True, slots=True)
class Window:
    """Up to 30 s of a clip."""

    clip: Clip
    number: int
    size: int
    language: str | None

    @property
    def key(self) -> str:
        """Name of this window in the cache."""
        return f"{self.clip.sha256}:{self.number}:{self.language or ''}"

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        return self.size / SAMPLE_RATE

    @property
    def frames(self) -> int:
        """Rows of the encoder's output that come from audio; the rest is silence up to 30 s."""
        return max(1, -(-self.size // FRAME_SAMPLES))

    def samples(self) -> Samples:
        """Return the samples, decoded again."""
        return windows(self.clip.samples())[self.number]

    def frame_weights(self, n_frames: int) -> NDArray[np.float32]:
        """Return the weight of each frame: 1 over the audio, together ``PADDING_SHARE`` of that in the silence."""
        weights = np.ones(n_frames, np.float32)
        silent = n_frames - self.frames
        if silent > 0:
            weights[self.frames :] = PADDING_SHARE * self.frames / silent
        return weights


@dataclass(slots=True)
class Line:
    """What the decoder is shown of a window, which goes by its number: prompt, text and end.

    ``ids`` is empty as long as the model has to write the text. With ``timed`` there are timestamps around each
    sentence, as whisper.cpp decodes by default. A line that was not ``heard`` is text of its own: what it makes of the
    window's audio says nothing.
    """

    window: int
    language: str | None
    ids: list[int]
    timed: bool = False
    heard: bool = True


def windows_of(clips: Iterable[Clip]) -> list[Window]:
    """Return all clips' windows in order."""
    found = []
    for clip in clips:
        pieces = windows(clip.samples())
        found += [Window(clip, number, piece.size, clip.language) for number, piece in enumerate(pieces)]
    return found


def lines_of(model: Model, special: SpecialTokens, all_windows: Sequence[Window], *, own: bool = False) -> list[Line]:
    """Return what the decoder is shown of windows, in their order; every second line has timestamps.

    Where a clip says when its sentences are said, a window in one language is one line, and a window in several is a
    line for each sentence, and one for each translation. Else a clip's transcript is one line, unless it is cut into
    several windows. What is left has no ids: the model writes it, as it does all text in one language with ``own``.
    """
    pieces = Counter(window.clip.id for window in all_windows)
    found: list[Line] = []
    for number, window in enumerate(all_windows):
        sentences = window.clip.sentences
        if len({sentence.language for sentence in sentences}) > 1:
            found += _lines_by_sentence(model, special, number, sentences, len(found))
            continue
        timed = len(found) % 2 == 1 and _has_timestamps(special)
        if not sentences and window.clip.text.strip():
            sentences = (Sentence(0.0, window.seconds, window.language or "en", window.clip.text),)
        ids: list[int] = []
        if not own and sentences and pieces[window.clip.id] == 1:
            ids = _ids(model, special, sentences, window.language, timed)
        found.append(Line(number, window.language, ids, timed))
    return found


def more_lines(model: Model, special: SpecialTokens, n_windows: int, n_tokens: int, seed: int = 0) -> list[Line]:
    """Return lines of at least that many tokens together, for the decoder alone: sentences that nobody speaks.

    They are the built-in texts in the languages that the model knows, three sentences of one language in a line, and
    take turns with the windows and with timestamps. Where the texts run out they come again in another order.
    """
    found: list[Line] = []
    by_language: dict[str, list[str]] = {}
    for language, text in builtin_texts(special):
        by_language.setdefault(language, []).append(text)
    generator, total = random.Random(seed), 0
    while by_language and total < n_tokens:
        groups = []
        for language, texts in by_language.items():
            texts = generator.sample(texts, len(texts))
            groups += [(language, texts[start : start + _SENTENCES]) for start in range(0, len(texts), _SENTENCES)]
        generator.shuffle(groups)
        for language, texts in groups:
            if total >= n_tokens:
                break
            timed = len(found) % 2 == 1 and _has_timestamps(special)
            said = [Sentence(_PACE_S * n, _PACE_S * (n + 1), language, text) for n, text in enumerate(texts)]
            ids = _ids(model, special, said, language, timed)
            found.append(Line(len(found) % n_windows, language, ids, timed, heard=False))
            total += len(ids)
    return found


def _lines_by_sentence(
    model: Model, special: SpecialTokens, number: int, sentences: Sequence[Sentence], before: int
) -> list[Line]:
    found: list[Line] = []
    for sentence in sentences:
        timed = (before + len(found)) % 2 == 1 and _has_timestamps(special)
        ids = _ids(model, special, [sentence], sentence.language, timed)
        found.append(Line(number, sentence.language, ids, timed))
    if special.translate is not None:
        for sentence in sentences:
            if sentence.translation:
                said = Sentence(sentence.start_s, sentence.end_s, "en", sentence.translation)
                ids = _ids(model, special, [said], sentence.language, False, "translate")
                found.append(Line(number, sentence.language, ids))
    return found


def _ids(
    model: Model,
    special: SpecialTokens,
    sentences: Sequence[Sentence],
    language: str | None,
    timed: bool,
    task: Task = "transcribe",
) -> list[int]:
    ids = special.prompt(language, timestamps=timed, task=task)
    for sentence in sentences:
        space = "" if sentence.language in _WITHOUT_SPACES else " "
        text = encode_text(space + sentence.text.strip(), model.tokenizer)
        ids += _between_timestamps(special, sentence.start_s, text, sentence.end_s) if timed else text
    return [*ids, special.required("end")][: _longest(model)]


def _longest(model: Model) -> int:
    return min(LONGEST_TEXT, model.dims.n_text_ctx)


def _has_timestamps(special: SpecialTokens) -> bool:
    begin = special.timestamps_begin
    return begin is not None and begin + TIMESTAMPS_PER_S * WINDOW_SAMPLES // SAMPLE_RATE in special.texts


def _between_timestamps(special: SpecialTokens, start_s: float, text: Sequence[int], end_s: float) -> list[int]:
    begin = special.required("timestamps_begin")
    start, end = (begin + round(TIMESTAMPS_PER_S * seconds) for seconds in (start_s, end_s))
    return [start, *text, end]


def write_texts(decoder: Decoder, encoded: Sequence[Array], languages: Sequence[str | None]) -> list[list[int]]:
    """Return what the model itself writes for some windows at once, greedily and without its prompt.

    ``encoded`` are the encoder's outputs, ``[1, frames, width]`` of each window.
    """
    states = decoder.outside.operations.concatenate(list(encoded), 0)
    prompts = [decoder.special.prompt(language) for language in languages]
    written = decoder.write_together(states, prompts)
    return [ids[len(prompt) :] for prompt, ids in zip(prompts, written, strict=True)]


TEXTS_TOGETHER = 4
"""Windows whose texts are written at once: each takes the room of its keys and values in all layers."""


def written_ids(special: SpecialTokens, line: Line, window: Window, text: Sequence[int]) -> list[int]:
    """Return the ids of a line whose text, with the end or without, the model wrote."""
    ids = special.prompt(line.language, timestamps=line.timed)
    if not line.timed:
        return [*ids, *text]
    end = [token for token in text[-1:] if token == special.end]
    return [*ids, *_between_timestamps(special, 0.0, text[: len(text) - len(end)], window.seconds), *end]
